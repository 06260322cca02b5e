"""Whether a history's items ask better in the company of what was acted on beside them, and how much of it.

Decided on the items that were held out of the fit, like all else of the encoder; no pair with one of them is
looked at until it is decided.
"""

import numpy as np

from recsys.encoder.company import Company
from recsys.features.interactions import Histories
from recsys.features.ragged import offsets_of_owners
from recsys.training.finetune.examples import Split
from recsys.training.finetune.head_init import co_actions
from recsys.training.finetune.loop import Trainer
from recsys.training.finetune.verdict import HeldOutGain, judge

SHARES = (0.3, 0.6)
"""Shares that are tried (measured: on one catalogue .3 is best and 1 gains nothing, on another it is flat from
.6 to 2; the higher, the more do items that were acted on beside the history's stand before new ones)."""
BESIDE = 10
"""Items kept beside one, the most frequent (measured: 10 do better than 20 or all)."""


def company_of(histories: Histories, n_items: int, share: float) -> Company:
    """What people acted on within the window of `co_actions`, in either order."""
    pairs = co_actions(histories, n_items).tocsr()
    owner = np.repeat(np.arange(n_items), np.diff(pairs.indptr))
    order = np.lexsort((pairs.indices, -pairs.data, owner))
    rank = np.arange(len(order)) - pairs.indptr[owner[order]]
    kept = np.sort(order[rank < BESIDE])
    return Company(
        offsets_of_owners(owner[kept], n_items),
        pairs.indices[kept].astype(np.int32),
        pairs.data[kept].astype(np.float32),
        share,
    )


def best_company(
    trainer: Trainer, split: Split, histories: Histories
) -> tuple[Company | None, HeldOutGain]:
    """The company to keep, of all `histories`; None where none is better than none by more than chance.

    The weights that serve must be in place, and the bank up to date for all items of the split.
    """
    alone = trainer.gains_asking(None)
    tried = {
        share: trainer.gains_asking(company_of(split.train.histories, split.train.n_items, share))
        for share in SHARES
    }
    share = max(tried, key=lambda s: sum(tried[s]))
    verdict = judge(alone, tried[share], split.asker)
    if not verdict.helps:
        return None, verdict
    return company_of(histories, split.train.n_items, share), verdict
