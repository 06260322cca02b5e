"""Where fits start from: never from what has seen more, the same again when repeated, from scratch
when due."""

import numpy as np
import pytest

from recsys.data_schemas.config import parse_config
from recsys.data_schemas.errors import UsageError
from recsys.features.interactions import DAY
from recsys.retrieval.collaborative.als import Als
from recsys.storage.progress import Reporter
from recsys.storage.stages import StageRunner
from recsys.storage.workspace import Workspace
from recsys.training.night import warm_starts
from recsys.training.night.night_context import Night
from recsys.training.sources.fit_source import fit_one

PARAMS = {"factors": 64.0}
THURSDAY = 20_454 * DAY
"""2026-01-01, 00:00 UTC."""


@pytest.fixture
def night(tmp_path):
    def start(full_refit="never"):
        raw = {"data": {"items": "i", "events": "e"}, "sources": {"full_refit": full_refit}}
        config = parse_config(raw, tmp_path)
        workspace = Workspace(config.workspace_path)
        return Night(config, workspace, StageRunner(workspace, Reporter(quiet=True)), Reporter())

    return start


def remember(night, cut, end, key, masked="", started=None, name="als", content=""):
    warm_starts.remember(night, name, PARAMS, masked, cut, end, started, key, content)


def test_a_fit_starts_from_the_nearest_that_saw_no_more(night):
    for cut, key in ((10, "a"), (20, "b"), (30, "c")):
        remember(night(), cut, 100, key)
    assert warm_starts.start_of(night(), "als", PARAMS, "", 29, 101).key == "b"
    assert warm_starts.start_of(night(), "als", PARAMS, "", 30, 101).key == "c"
    assert warm_starts.start_of(night(), "als", PARAMS, "", 9, 101) is None


def test_tonights_own_fits_do_not_count_so_a_repeat_chooses_the_same(night):
    remember(night(), 10, 100, "old")
    before = warm_starts.start_of(night(), "als", PARAMS, "", 50, 200)
    remember(night(), 40, 200, "tonight", started=before)
    remember(night(), 60, 300, "later")
    assert warm_starts.start_of(night(), "als", PARAMS, "", 50, 200) == before


def test_masked_fits_other_params_and_other_sources_do_not_mix(night):
    remember(night(), 10, 100, "plain")
    assert warm_starts.start_of(night(), "als", PARAMS, "some items", 50, 200) is None
    assert warm_starts.start_of(night(), "als", {"factors": 128.0}, "", 50, 200) is None
    assert warm_starts.start_of(night(), "ease", PARAMS, "", 50, 200) is None


@pytest.mark.parametrize(
    ("full_refit", "end", "due"),
    [
        ("never", THURSDAY + 90 * DAY, False),
        ("always", THURSDAY + 1, True),
        ("sunday", THURSDAY + 3 * DAY, False),
        ("sunday", THURSDAY + 3 * DAY + 1, True),
        ("sunday", THURSDAY + 8 * DAY, True),
        ("thursday", THURSDAY + 7 * DAY, False),
        ("thursday", THURSDAY + 7 * DAY + 1, True),
    ],
)
def test_from_scratch_when_the_weekday_has_begun(night, full_refit, end, due):
    remember(night(), 10, THURSDAY + DAY // 2 if full_refit != "always" else 1, "old")
    found = warm_starts.start_of(night(full_refit), "als", PARAMS, "", 50, end)
    assert (found is None) == due


def test_a_line_of_warm_fits_remembers_its_last_start_from_scratch(night):
    remember(night("sunday"), 10, THURSDAY, "cold")
    for day in (1, 2):
        started = warm_starts.start_of(night("sunday"), "als", PARAMS, "", 50, THURSDAY + day * DAY)
        remember(night("sunday"), 10, THURSDAY + day * DAY, f"warm-{day}", started=started)
    last = warm_starts.start_of(night("sunday"), "als", PARAMS, "", 50, THURSDAY + 2 * DAY + 1)
    assert (last.key, last.since) == ("warm-2", THURSDAY)
    assert warm_starts.start_of(night("sunday"), "als", PARAMS, "", 50, THURSDAY + 4 * DAY) is None


def test_a_fit_of_the_same_content_is_not_fitted_again(night):
    remember(night(), 10, 100, "cold", content="a")
    first = warm_starts.start_of(night(), "als", PARAMS, "", 20, 200, "b")
    remember(night(), 20, 200, "warm", started=first, content="b")
    assert warm_starts.kept(night(), "b", 300)
    assert not warm_starts.kept(night(), "b", 200)
    # the start it had, not the latest there is; and none where it had none
    assert warm_starts.start_of(night(), "als", PARAMS, "", 20, 300, "b").key == "cold"
    assert warm_starts.start_of(night(), "als", PARAMS, "", 10, 300, "a") is None
    assert warm_starts.start_of(night(), "als", PARAMS, "", 20, 300, "c").key == "warm"
    # used again tonight, it is still a start for others of tonight, as in a repeated night
    remember(night(), 20, 300, "warm", started=first, content="b")
    assert warm_starts.start_of(night(), "als", PARAMS, "", 20, 300, "c").key == "warm"


def test_a_warm_fit_of_the_same_content_is_fitted_again_when_all_are(night):
    remember(night("sunday"), 10, THURSDAY, "cold", content="a")
    started = warm_starts.start_of(night("sunday"), "als", PARAMS, "", 20, THURSDAY + DAY, "b")
    remember(night("sunday"), 20, THURSDAY + DAY, "warm", started=started, content="b")
    for day, key in ((2, "cold"), (4, None)):
        found = warm_starts.start_of(
            night("sunday"), "als", PARAMS, "", 20, THURSDAY + day * DAY, "b"
        )
        assert (found and found.key) == key


def test_only_the_last_nights_are_remembered(night):
    for end in range(100, 600, 100):
        remember(night(), 10, end, str(end))
    assert {fit.end for fit in warm_starts._read(night())} == {300, 400, 500}


def test_an_output_no_longer_kept_is_a_start_from_scratch(night):
    remember(night(), 10, 100, "gone")
    start = warm_starts.start_of(night(), "als", PARAMS, "", 50, 200)
    assert start is not None
    assert warm_starts.opened(night(), start) is None


def test_an_unknown_day_is_refused(tmp_path):
    raw = {"data": {"items": "i", "events": "e"}, "sources": {"full_refit": "caturday"}}
    with pytest.raises(UsageError, match="full_refit"):
        parse_config(raw, tmp_path)


def ranking(source, interactions):
    histories = interactions.histories()
    blocked = np.zeros(interactions.n_items, np.uint8)
    return [
        source.recall(histories.of(user), 8, 0, blocked).items
        for user in range(0, interactions.n_users, 4)
    ]


def overlap(one, other):
    return np.mean([len(np.intersect1d(a, b)) / max(1, len(b)) for a, b in zip(one, other)])  # noqa: B905


def test_als_goes_on_from_an_earlier_fit(world):
    """With few iterations, a warm start is nearer to a whole fit than a cold one."""
    interactions, inputs = world
    earlier = interactions.where(np.arange(len(interactions)) % 10 != 0)
    old = fit_one("als", earlier, inputs, {}, seed=1, workers=1)
    whole = ranking(fit_one("als", interactions, inputs, {}, seed=2, workers=1), interactions)
    few = {"iterations": 3.0}
    cold = fit_one("als", interactions, inputs, few | {"iterations": 1.0}, seed=3, workers=1)
    going_on = fit_one("als", interactions, inputs, few, seed=3, workers=1, previous=old)
    assert overlap(ranking(going_on, interactions), whole) > overlap(
        ranking(cold, interactions), whole
    )


def test_als_takes_new_items_and_drops_a_start_of_another_width(world, interactions_of):
    interactions, inputs = world
    old = fit_one("als", interactions_of([0, 0, 1, 1], [0, 1, 1, 2], n_items=3), inputs, {},
                  seed=1, workers=1)  # fmt: skip
    found = fit_one("als", interactions, inputs, {}, seed=1, workers=1, previous=old)
    assert isinstance(found, Als)
    assert len(found.white) == interactions.n_items
    assert np.isfinite(found.white).all()
