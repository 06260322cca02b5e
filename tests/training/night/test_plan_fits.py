"""How often each source is fitted when the budget is short."""

from recsys.training.night.fit_sources import CHEAP, plan_fits


def test_what_costs_next_to_nothing_is_fitted_at_every_cut_whatever_is_left():
    """As on a machine so busy that one expensive source takes all there is."""
    seconds = {"popular": 0.0, "recent": 0.0, "item_item": 0.3, "als": 0.64, "sequence": 55.0}
    fits, dropped = plan_fits(seconds, cuts=24, budget=3 * sum(seconds.values()))
    assert not dropped
    assert {name: fits[name] for name in ("popular", "recent", "item_item")} == dict.fromkeys(
        ("popular", "recent", "item_item"), 25
    )
    assert fits["als"] == fits["sequence"] == 3


def test_the_least_fits_come_first_and_the_dearest_goes():
    fits, dropped = plan_fits({"a": 1.0, "b": 30.0, "c": 31.0}, cuts=6, budget=100.0)
    assert set(dropped) == {"c"}
    assert fits["b"] == 3
    assert 1.0 * 7 > CHEAP * 100.0 >= 0.5 * 7
    assert plan_fits({"a": 0.5, "b": 33.0}, cuts=6, budget=100.5)[0]["a"] == 7
