"""Ranking groups with their features, as of each cut: what the ranker learns from and is tested on.

Cold-start masking: in the ranker's windows a share of the items is treated as though nobody had ever
acted on them (their earlier events are taken out of fits, histories and counters), and a share of
the users as though they were new. Without it, a night whose window holds no cold item teaches the
trees that cold means never. The test windows are left as they are.

Where impressions are recorded, lists that were shown in the ranker's windows are groups too, beside
those of recall: only they hold what was offered and left, and moments at all hours.

Shapes: M moments, R candidate rows, F features.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data_schemas.limits import LIST_LENGTH
from recsys.evaluation.lists import Truth
from recsys.features.feature_set import FeatureSet
from recsys.features.interactions import Interactions
from recsys.features.rows import ANY_POSITION, BatchInputs, Rows
from recsys.storage.files import hash_json
from recsys.storage.stages import Stage, StageResult
from recsys.training.groups import CandidateTable, history_reader
from recsys.training.impression_groups import ShownGroups, groups_of_lists
from recsys.training.moment_parts import CandidatesAsked, MomentParts, Moments
from recsys.training.night import fit_sources
from recsys.training.night.fit_sources import fit_as_of
from recsys.training.night.hidden_items import hidden, practised_share, surplus
from recsys.training.night.inputs import (
    NOT_YET,
    Inputs,
    user_table,
)
from recsys.training.night.night_context import Night
from recsys.training.night.products import LEARNABLE, CutSources, Fitted, RankingData
from recsys.training.night.searched_items import unavailable_at
from recsys.training.windows import moments_at

CODE = (
    *fit_sources.CODE,
    "recsys.features",
    "recsys.training.moment_parts",
    "recsys.training.night.fit_sources",
    "recsys.training.night.hidden_items",
    "recsys.training.night.searched_items",
)
NEW_USERS_AT_MOST = 0.15
"""Largest share of moments whose user is masked as new (assumed)."""
NO_LABEL = -(2**62)
"""End of a label window (µs) in which nothing lies."""
FEW_EVENTS = 3
"""A user with at most this many events is new."""
MOMENTS_PER_GROUP = 5
"""Moments looked at, at most, for each group to learn from (recall finds one positive in two or
three: measured)."""
SHOWN_SHARE = 0.5
"""Largest share of shown lists among the groups to learn from (assumed): a list holds what some
policy chose to show, and what is served is ranked out of recall, which holds what nobody was shown."""
CHUNK = 4096
"""Moments whose candidates are held at once while looking."""


@dataclass(frozen=True)
class ColdStartMasking:
    """What is hidden from the ranker's windows, so that cold items and new users occur in them."""

    key: str
    cold: npt.NDArray[np.bool_]
    """bool[N]: items whose events before a cut are left out."""
    new_users: float
    """Share of moments that see only the last few events."""
    surplus: npt.NDArray[np.bool_]
    """bool[N]: items without events that are no candidates, so that new ones are as many as in life."""

    def of_users(self) -> "ColdStartMasking":
        """The same with every item as it is."""
        none = np.zeros(len(self.cold), bool)
        return ColdStartMasking(hash_json([self.new_users]), none, self.new_users, none)


def cold_start_masking(inputs: Inputs) -> ColdStartMasking:
    """Which items and how many users the ranker's windows treat as new.

    Decided by what was known before the test, so that it stays while the windows do.
    """
    of_user = np.bincount(inputs.interactions.before(inputs.windows.test[0]).user)
    floor = inputs.config.windows.floor_share
    users = float(np.clip((of_user <= FEW_EVENTS).mean(), floor, NEW_USERS_AT_MOST))
    cold, beyond = hidden(inputs, practised_share(inputs)), surplus(inputs)
    named = [np.flatnonzero(items).tolist() for items in (cold, beyond)]
    return ColdStartMasking(hash_json([*named, users]), cold, users, beyond)


def build_ranking_data(night: Night, role: str) -> StageResult[RankingData]:
    """Candidates and features of every moment of a role: `ranker`, `test`, or `released`, which is as many
    moments of the tested windows as the released ranker may learn from.

    Where only the test has a window, the ranker's role has no moment: its groups are empty, but
    with the same signals and features.
    """
    if role == "ranker" and (earlier := night.data.earlier) is not None:
        night = night.beside(data=earlier, encoded=night.encoded.over(earlier))
    config, data = night.config, night.data
    cuts = data.windows.ranker if role == "ranker" else data.windows.test
    limit = config.evaluation.max_users if role == "test" else config.ranker.max_groups
    masked, view = _masked(data, role), data.interactions
    if masked is not None:
        view = view.where(~masked.cold[view.item])
    key = "" if masked is None or not masked.cold.any() else masked.key
    labels_until = {cut: data.windows.label_end(cut) for cut in cuts} or {
        data.windows.cuts[0]: NO_LABEL
    }
    windows = [
        Window(cut, until, fit_as_of(night, view, cut, masked=key))
        for cut, until in labels_until.items()
    ]
    return night.runner.run(
        Stage(
            f"groups-{role}",
            {
                "known": data.key_before(max(labels_until.values())),
                "kinds": data.interactions.kinds,
                "resolution": _resolution(data),
                "labels": {str(window.cut): window.until for window in windows},
                "masked": "" if masked is None else masked.key,
                "fits": {str(window.cut): window.fitted.key for window in windows},
                "encoder": night.encoded.vectors_stage.key,
                "recipe": night.recipe.identity(),
                "limit": limit,
                "sources": night.section("sources"),
                "features": night.section("features"),
                "seed": config.seed,
            },
            lambda out: _make(night, windows, limit, masked, view, out),
            lambda stage: RankingData.read(stage.folder),
            code=CODE,
        )
    )


def _masked(inputs: Inputs, role: str) -> ColdStartMasking | None:
    """What is practised in a role; None where everything is as it is. The released ranker's groups read the
    sources that were tested, which know every item."""
    if role == "test":
        return None
    masked = cold_start_masking(inputs)
    return masked if role == "ranker" else masked.of_users()


class Window(NamedTuple):
    """A cut, the end of its labels (µs) and the sources as of it."""

    cut: int
    until: int
    fitted: Fitted

    def moments(self, data: Inputs, most: int) -> Truth:
        """Who did something new in it, at most so many."""
        found = moments_at(data.interactions, self.cut, self.until)
        return found.sample(max(1, most), data.chances(found, "moments"))


def _make(
    night: Night,
    windows: list[Window],
    limit: int,
    masked: ColdStartMasking | None,
    view: Interactions,
    out: Path,
) -> dict[str, Any]:
    with night.asking(out) as asking:
        if masked is None:
            return _to_test(night, windows, limit, asking, out)
        return _to_learn(night, windows, limit, masked, view, asking, out)


def _to_test(
    night: Night, windows: list[Window], limit: int, asking: MomentParts | None, out: Path
) -> dict[str, Any]:
    """What recall finds at the test's cuts, everything known to it."""
    view, parts = night.data.interactions, []
    for window in windows:
        moments = window.moments(night.data, limit // len(windows))
        sources = CutSources(window.fitted, night.encoded)
        parts.append(collect_cut(night, view, moments, sources, asking))
    return write_ranking_data(out, night, batch_inputs(night, view), parts)


def _to_learn(
    night: Night,
    windows: list[Window],
    limit: int,
    masked: ColdStartMasking,
    view: Interactions,
    asking: MomentParts | None,
    out: Path,
) -> dict[str, Any]:
    """What recall finds at the ranker's cuts with some items and users as though they were new, and
    lists that were shown between them."""
    data = night.data
    parts: list[_Part] = []
    lists: list[_Part] = []
    shown = shown_groups(data) if windows[0].cut < data.windows.test[0] else None
    if shown is not None and shown.sampled:
        night.reporter.say(
            f"ranker: {shown.sampled:,} shown lists are longer than {LIST_LENGTH:,} items; it"
            " learns from what was acted on and a sample of what was left"
        )
    most = max(1, limit // len(windows))
    for window in windows:
        moments = window.moments(data, MOMENTS_PER_GROUP * limit // len(windows))
        sources = CutSources(window.fitted, night.encoded)
        at_cut = None if shown is None else shown.between(window.cut, window.until)
        room = 0 if at_cut is None else min(len(at_cut), int(SHOWN_SHARE * most))
        found = _collect_to_learn(night, view, moments, sources, masked, asking, most - room)
        parts += found
        if at_cut is not None:
            chances = data.chances(at_cut.moments, "shown lists")
            beside = at_cut.sample(min(room, _most_beside(found)), chances)
            lists.append(_collect_shown(night, view, beside, sources, masked, asking))
    known = without_items(batch_inputs(night, view), masked.cold)
    return write_ranking_data(out, night, known, [*parts, *lists])


class _Part(NamedTuple):
    """Some of a cut's moments and candidates, with what each moment may see."""

    moments: Truth
    table: CandidateTable
    lengths: npt.NDArray[np.int64]
    """int64[M]: history length a moment is limited to; -1 for the whole."""
    contexts: list[dict[str, Any]] | None = None
    """[M] the request's context of each, where the candidates are lists that were shown."""


def shown_groups(inputs: Inputs) -> ShownGroups | None:
    """Lists of the ranker's windows that teach something; None where none was recorded.

    What was done with them is read from events before the first tested cut only.
    """
    lists, windows = inputs.tables.ranked_lists, inputs.windows
    if lists is None or not windows.ranker:
        return None
    begin, end = windows.ranker[0], windows.test[0]
    inside = np.flatnonzero((lists.time >= begin) & (lists.time < end))
    events = inputs.interactions
    events = events.where((events.time >= begin) & (events.time < end))
    groups = groups_of_lists(lists.take(inside), events, inputs.tables.catalogue.blocked)
    return replace(groups, lists=inside[groups.lists])


def _most_beside(parts: list[_Part]) -> int:
    """Shown lists at most beside some groups of recall, so that their share is kept."""
    found = sum(int(part.table.has_positive().sum()) for part in parts)
    return int(found * SHOWN_SHARE / (1 - SHOWN_SHARE))


def _masked_lengths(
    inputs: Inputs, moments: Truth, masked: ColdStartMasking
) -> npt.NDArray[np.int64]:
    """int64[M]: how many of the last events each moment sees, -1 for all of them."""
    some = (inputs.chances(moments, "lengths") * (FEW_EVENTS + 1)).astype(np.int64)
    new = inputs.chances(moments, "masked users") < masked.new_users
    return np.where(new, some, -1)


def _collect_to_learn(
    night: Night,
    view: Interactions,
    moments: Truth,
    sources: CutSources,
    masked: ColdStartMasking,
    asking: MomentParts | None,
    most: int,
) -> list[_Part]:
    """Moments in random order until `most` of them hold a positive that recall found.

    Where recall finds one of three, three times the moments are looked at for as much to learn; the
    rows of the others are let go at once, so that memory is that of what is learned from. An engine is
    given all chunks at once that are needed in any case, since a moment is one group at most.
    """
    order = np.argsort(night.data.chances(moments, "order"), kind="stable")
    parts: list[_Part] = []
    found = start = 0
    while found < most and (start < len(order) or not parts):  # once even without a moment
        chunks = 1 if asking is None else -(-(most - found) // CHUNK)
        starts = range(start, start + chunks * CHUNK, CHUNK)
        drawn = np.concatenate([np.sort(order[low : low + CHUNK]) for low in starts])
        some = moments.take(drawn)
        lengths = _masked_lengths(night.data, some, masked)
        part = collect_cut(night, view, some, sources, asking, lengths, masked.surplus, learn=True)
        found += int(part.table.has_positive().sum())
        parts.append(part)
        start += chunks * CHUNK
    return parts


def _collect_shown(
    night: Night,
    view: Interactions,
    lists: ShownGroups,
    sources: CutSources,
    masked: ColdStartMasking,
    asking: MomentParts | None,
) -> _Part:
    """Lists of a cut's window with what its sources say of their items at the time of each."""
    lengths = _masked_lengths(night.data, lists.moments, masked)
    moments = Moments(
        lists.moments, history_reader(view.histories(), lists.moments, lengths), lists
    )
    table = _collected(night, sources, moments, asking)
    shown = night.data.tables.ranked_lists
    assert shown is not None
    return _Part(lists.moments, table, lengths, shown.contexts(lists.lists))


def collect_cut(
    night: Night,
    view: Interactions,
    moments: Truth,
    sources: CutSources,
    asking: MomentParts | None,
    lengths: npt.NDArray[np.int64] | None = None,
    without: npt.NDArray[np.bool_] | None = None,
    *,
    learn: bool = False,
) -> _Part:
    """Candidates of some moments of a cut, by recall.

    Args:
        night: tonight's run, with its data and recipe.
        view: events that histories are read from.
        moments: M moments.
        sources: fitted as of the cut.
        asking: where they are asked; None for threads of this process.
        lengths: int64[M], how many of the last events each moment sees; -1, or None, for all.
        without: bool[N], items that are no candidates; None for none.
        learn: whether moments that teach nothing are emptied.
    """
    if lengths is None:
        lengths = np.full(len(moments), -1, np.int64)
    asked = Moments(moments, history_reader(view.histories(), moments, lengths))
    return _Part(moments, _collected(night, sources, asked, asking, without, learn), lengths)


def _collected(
    night: Night,
    sources: CutSources,
    moments: Moments,
    asking: MomentParts | None,
    without: npt.NDArray[np.bool_] | None = None,
    learn: bool = False,
) -> CandidateTable:
    """Candidates as recall is served: with the configured depth and limit, and the recipe's fusion."""
    config = night.config.sources
    ask = CandidatesAsked(config.depth, config.candidates, night.recipe.weights, learn)
    unavailable = unavailable_at(night.data, int(moments.truth.time.min(initial=NOT_YET)))
    if without is not None:
        unavailable[without] = 1
    if asking is None:
        return ask.collected(sources.opened, moments, unavailable, night.workers)
    return asking.candidates(sources.files, moments, unavailable, ask)


def write_ranking_data(
    out: Path, night: Night, known: BatchInputs, parts: list[_Part]
) -> dict[str, Any]:
    """Read the features of all parts' candidates and write everything; returns the stage's facts.

    Args:
        out: folder to fill.
        night: tonight's run, with its data.
        known: tables that features are read from.
        parts: moments with their candidates.
    """
    moments = Truth.join([p.moments for p in parts])
    table = CandidateTable.join([p.table for p in parts])
    lengths = np.concatenate([p.lengths for p in parts])
    shown = np.concatenate([np.full(len(p.moments), p.contexts is not None) for p in parts])
    contexts = [one for p in parts for one in (p.contexts or [{}] * len(p.moments))]
    features = _features(night, table)
    user = moments.user
    if not _told_before_acting(night.data):
        user = np.where(lengths >= 0, -1, user).astype(np.int32)
    rows = Rows(
        offsets=table.offsets,
        user=user,
        now=moments.time,
        position=np.full(len(moments), ANY_POSITION, np.int64),
        items=table.items,
        signals=table.signals,
        history_of=history_reader(known.interactions.histories(), moments, lengths),
        context=_columns(contexts),
    )
    x = features.batch(rows, known)
    hashes = night.data.user_hashes[moments.user]
    RankingData(moments, hashes, table, x, features, shown).write(out)
    return {
        "moments": len(moments),
        "shown lists": int(shown.sum()),
        "users": len(np.unique(moments.user)),
        "rows": len(table.items),
        "features": x.shape[1],
        "positives_found": float((table.grade > 0).sum() / max(1, len(moments.items))),
        LEARNABLE: int(table.has_positive().sum()),
    }


def _told_before_acting(inputs: Inputs) -> bool:
    """Whether people are known by their attributes before they do anything, as who tells them on signing up: so
    are those who are masked as new. Where nobody without events is in the table, they come with the events."""
    users = user_table(inputs.tables)
    if users is None:
        return False
    acted = pc.is_in(
        users.ids.all(), value_set=pa.array(inputs.interactions.user_ids, pa.large_string())
    )
    return not pc.all(acted).as_py()


def _features(night: Night, table: CandidateTable) -> FeatureSet:
    """The features that tonight's tables give, with those of the candidates' signals."""
    data = night.data
    return FeatureSet.default(
        data.tables.catalogue,
        data.interactions.kinds,
        tuple(table.signals),
        night.config.features,
        resolution=_resolution(data),
        users=user_table(data.tables),
        impressions=data.tables.impressions is not None,
    )


def _columns(contexts: list[dict[str, Any]]) -> dict[str, npt.NDArray[np.object_]]:
    """By name object[M], None where a moment's request did not say it."""
    names = sorted({name for one in contexts for name in one})
    found: dict[str, npt.NDArray[np.object_]] = {}
    for name in names:
        found[name] = np.empty(len(contexts), object)
        found[name][:] = [one.get(name) for one in contexts]
    return found


def batch_inputs(night: Night, view: Interactions) -> BatchInputs:
    """The tables that features are read from in batch."""
    tables = night.data.tables
    return BatchInputs(
        interactions=view,
        catalogue=tables.catalogue,
        bucket=night.config.features.bucket,
        users=user_table(tables),
        impressions=tables.impressions,
    )


def without_items(known: BatchInputs, hidden: npt.NDArray[np.bool_]) -> BatchInputs:
    """The same without what was shown of some items (bool[N])."""
    if known.impressions is None:
        return known
    return replace(known, impressions=known.impressions.without(hidden))


def _resolution(inputs: Inputs) -> str:
    """What times can be read for: `seconds`, `days` or `ordinal`."""
    if inputs.windows.scheme == "ordinal":
        return "ordinal"
    return "seconds" if inputs.tables.resolution.kind in ("seconds", "hours") else "days"
