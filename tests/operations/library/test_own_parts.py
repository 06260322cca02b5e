"""Sources, metrics and hooks of one's own: used in a night, or refused before it begins."""

import numpy as np
import pytest

import recsys
from recsys.data_schemas.config import RecsysConfig
from recsys.features.interactions import DAY
from recsys.retrieval.source_kinds import shipped, source_class
from recsys.training.night.own_parts import require_sound


class TestExample(recsys.testing.SourceTests):
    source = recsys.testing.Example


@pytest.mark.parametrize("name", ["popular", "item_item", "transitions", "bm25", "ease", "als"])
def test_what_we_ship_passes_what_we_ask(name):
    from recsys.retrieval.source_checks import require_conforming

    assert name in shipped()
    require_conforming(source_class(name))


def test_a_source_that_hides_what_of_the_moment_it_looks_at_is_found():
    from recsys.retrieval import source_checks
    from recsys.testing import Example

    class Told(Example):
        name = "told"

        def scores(self, history, now):
            found = super().scores(history, now)
            return np.where(np.isnan(found), np.nan, now // DAY % 7 + found).astype(np.float32)

        def moment_key(self, history, now):
            return bytes([now // DAY % 7])

    class Hides(Told):
        name = "hides"

        def moment_key(self, history, now):
            return b""

    source_checks.depends_on_no_more_of_the_moment_than_it_says(Told)
    with pytest.raises(AssertionError, match="changed where moment_key did not"):
        source_checks.depends_on_no_more_of_the_moment_than_it_says(Hides)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sources": {"own": ["shop_parts:Failing"]}}, ("ZeroDivisionError", "line 17")),
        ({"sources": {"own": ["shop_parts:Greedy"]}}, ("expected up to 5", "line 20")),
        ({"sources": {"own": ["shop_parts:TakesAName"]}}, ("a name of its own", "line 27")),
        ({"sources": {"own": ["shop_parts:Gone"]}}, ("AttributeError", "sources.own")),
        ({"sources": {"own": ["no_such_module:X"]}}, ("ModuleNotFoundError", "PYTHONPATH")),
        ({"sources": {"own": ["mine"]}}, ("entry point", "recsys.sources")),
        ({"sources": {"own": ["shop_parts:first_place"]}}, ("is no source", "line 31")),
        ({"evaluation": {"metrics": {"own": ["shop_parts:too_short"]}}}, ("shape (1,)", "line 39")),
        ({"evaluation": {"metrics": {"own": ["shop_parts:breaks"]}}}, ("cannot be called", "line 51")),
        ({"hooks": {"before_promote": ["shop_parts:of_no_argument"]}},
         ("cannot be called", "line 59")),
    ],
)  # fmt: skip
def test_a_wrong_part_is_named_with_its_line_before_any_work(settings, named, parts_of_ones_own):
    config = RecsysConfig.model_validate({"data": {"items": "-", "events": "-"}} | settings)
    with pytest.raises(recsys.UsageError) as problem:
        require_sound(config)
    for word in named:
        assert word in str(problem.value)


@pytest.mark.filterwarnings("ignore:::mlflow")
def test_a_night_takes_all_three(shop, quick):
    """Over the recommender's workspace: what it made is found, and only the judgement is new."""
    import shop_parts

    model, train, _ = shop
    quick = {name: dict(section) for name, section in quick.items()}
    quick["sources"]["own"] = ["shop_parts:Met"]
    quick["evaluation"]["metrics"] = {"own": ["shop_parts:first_place"]}
    settings = {**quick, "budget_minutes": 2, "seed": model.seed} | {
        "hooks": {
            "on_stage_end": ["shop_parts:told_of_stage"],
            "on_report": ["shop_parts:breaks", "shop_parts:told_of_report"],
            "before_promote": ["shop_parts:not_before_noon"],
        }
    }
    shop_parts.TOLD.clear()
    from recsys.operations.library.fitting import reporter

    told = reporter(False)
    result = recsys.run_night(train.config(model.workspace, settings), reporter=told)
    assert not result.decision.promoted
    assert recsys.Registry(train.config(model.workspace, settings)).champion() is None
    page = result.report.read_text(encoding="utf-8")
    assert "version over None: nobody is awake" in page
    assert "first_place" in result.metrics["recsys"]
    low, high = result.metrics["recsys"]["first_place"][1:]
    assert low is None or low <= high
    assert "lists" in shop_parts.TOLD
    assert shop_parts.TOLD[-1] == page
    warning = next(w for w in told.warnings if "on_report" in w)
    assert "no disk for this" in warning
    assert "shop_parts.py, line 52" in warning
    assert "met.score" in page
