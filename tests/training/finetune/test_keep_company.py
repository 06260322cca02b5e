"""Which company a fit keeps: counted pairs, the most frequent, chosen on held-out items."""

from types import SimpleNamespace

import numpy as np
import pytest

from recsys.encoder.company import Company
from recsys.training.finetune import keep_company
from recsys.training.finetune.examples import make_examples
from recsys.training.finetune.keep_company import SHARES, best_company, company_of


def test_the_most_frequent_are_kept(interactions_of, monkeypatch):
    monkeypatch.setattr(keep_company, "BESIDE", 1)
    events = interactions_of([0, 0, 1, 1, 2, 2], [5, 2, 2, 5, 7, 5])
    found = company_of(events.histories(), 10, 0.3)
    assert found.share == 0.3
    beside = {
        item: found.beside[a:b].tolist()
        for item, (a, b) in enumerate(zip(found.offsets, found.offsets[1:], strict=False))
        if b > a
    }
    assert beside == {5: [2], 2: [5], 7: [5]}
    assert found.weights[found.beside == 2].tolist() == [2.0]


@pytest.mark.parametrize("gain", [0.2, 0.0, -0.1])
def test_held_out_items_decide_and_no_pair_with_one_is_looked_at(behaviour, gain):
    split = make_examples(behaviour, fit_until=int(behaviour.time.max()), places=5, seed=1)
    asked = []

    def gains(company):
        asked.append(company)
        better = company is not None and company.share == SHARES[1]
        return [0.3 + (gain if better else 0.0)] * len(split.valid)

    trainer = SimpleNamespace(gains_asking=gains)
    found, verdict = best_company(trainer, split, behaviour.histories())
    assert [c if c is None else c.share for c in asked] == [None, *SHARES]
    for company in asked[1:]:
        assert not np.isin(company.beside, split.held).any()
        assert (np.diff(company.offsets)[split.held] == 0).all()
    assert verdict.helps == (gain > 0)
    if gain > 0:
        assert isinstance(found, Company)
        assert found.share == SHARES[1]
        assert np.isin(found.beside, split.held).any()  # decided: now all that is known
    else:
        assert found is None
