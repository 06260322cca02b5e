"""What the gate decides by: tonight's lists beside those of the champion, of earlier nights, of the
simplest systems, moment by moment.

Each night leaves its lists beside its report (`evaluation.saved_lists`). A list is shared by two
nights where both asked for the same user at the same moment; as windows keep their cuts for some
days, most are. Recorded lists are what a version showed with the data of its own night, so they
stay good where tonight's data are spoilt.

Shapes: G groups (test moments).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.data_schemas.config import GateConfig
from recsys.evaluation import metrics
from recsys.evaluation.lists import RankedLists, Truth
from recsys.evaluation.popularity_at import PopularityAt
from recsys.evaluation.saved_lists import MAIN, SavedLists, read_lists
from recsys.evaluation.segments import SegmentLabels
from recsys.evaluation.uncertainty import FEW_USERS
from recsys.features.draws import Doubles
from recsys.features.packed_strings import PackedStrings
from recsys.storage.registry import Registry
from recsys.storage.registry.version_tags import (
    AGAINST_TAG,
    CAPS_TAG,
    GATE_TAG,
    RECIPE_TAG,
    Version,
)
from recsys.training.night.gate import PROMOTE, ChampionEvidence, OwnNights, Paired, Reference
from recsys.training.night.products import ChampionResult

NO_CAPS = "{}"


MASKED = "masked_cold_items"
"""Protected label of items whose past was taken away; see `masked_items`."""


@dataclass(frozen=True)
class EarlierNights:
    """What the registry and the reports keep of the nights before.

    Args:
        versions: all versions, newest first.
        served: versions that may not be fallen behind, newest first; see `who_served`.
        caps: those of tonight's lists, as `CAPS_TAG` has them.
    """

    versions: Sequence[Version]
    served: Sequence[int]
    caps: str = NO_CAPS

    @classmethod
    def of(cls, registry: Registry, nights: int, caps: Mapping[str, int]) -> "EarlierNights":
        versions = registry.list()
        return cls(versions, who_served(registry, versions[:nights]), caps_tag(caps))

    def tag(self, version: int, name: str) -> str | None:
        """A version's tag; None where it has none or is no longer kept."""
        return next((v.tags.get(name) for v in self.versions if v.version == version), None)

    def lists(self, version: int) -> SavedLists | None:
        """What a version's night recorded; None where that is gone, or made under other caps: a rule
        of the shop's is no loss of the model's."""
        found = next((v for v in self.versions if v.version == version), None)
        if found is None or not found.report or found.tags.get(CAPS_TAG, NO_CAPS) != self.caps:
            return None
        kept = read_lists(Path(found.report))
        return kept if kept is not None and MAIN in kept.systems else None


def caps_tag(caps: Mapping[str, int]) -> str:
    """`serving.caps` as a tag."""
    return json.dumps(dict(caps), sort_keys=True)


def who_served(registry: Registry, recent: Sequence[Version]) -> list[int]:
    """Recent versions that were champion by the gate's own decision, newest first.

    A version that a person put in place against the gate, or went back to, ends the row: whoever
    chose it accepted its losses against those before.
    """
    known = {v.version: v for v in recent}
    found: list[int] = []
    for change in reversed(registry.history()):
        entry = known.get(change.version)
        if entry is None:
            break
        if change.version not in found:
            found.append(change.version)
        back = change.before is not None and change.before > change.version
        if change.action != "promote" or back or entry.tags.get(GATE_TAG) != PROMOTE:
            break
    return found


def scores(truth: Truth, lists: RankedLists, metric: str) -> Doubles:
    """float64[G] of the gate's metric, e.g. `ndcg@10`."""
    measure, k = metrics.gate_metric(metric)
    matched = metrics.match(truth, lists)
    nothing = PopularityAt.same(np.zeros(0), truth.n_groups, 0)
    return measure.needed(metrics.Measured(matched, lists, truth, nothing), k)


def paired(
    truth: Truth,
    ours: RankedLists,
    theirs: RankedLists,
    user_ids: PackedStrings | npt.NDArray[np.object_],
    metric: str,
) -> Paired:
    """Two systems on the same moments.

    Args:
        truth: G moments with their relevant items.
        ours: tonight's lists, one per moment.
        theirs: the lists they are held against, one per moment.
        user_ids: str[U], id of each of the truth's user codes.
        metric: the gate's, `ndcg@10` for example.
    """
    return Paired(
        scores(truth, ours, metric),
        scores(truth, theirs, metric),
        user_ids[truth.user].astype(str),
        _same(ours, theirs),
    )


def _same(ours: RankedLists, theirs: RankedLists) -> bool:
    width = min(ours.length, theirs.length)
    beyond = [lists.items[:, width:] for lists in (ours, theirs)]
    same = np.array_equal(ours.items[:, :width], theirs.items[:, :width])
    return same and all((part < 0).all() for part in beyond)


def floor(
    tonight: SavedLists, systems: Sequence[RankedLists], variants: Mapping[str, str], metric: str
) -> list[Reference]:
    """Everything a night compares with but ablations: fusion, popularity, single sources."""
    own = tonight.systems[MAIN]
    return [
        Reference(lists.name, (paired(tonight.truth, own, lists, tonight.user_ids, metric),))
        for lists in systems
        if lists.name != MAIN and lists.name not in variants
    ]


def champion_evidence(
    config: GateConfig,
    tonight: SavedLists,
    champion: ChampionResult | None,
    segments: Mapping[str, SegmentLabels],
    nights: EarlierNights,
    recipe_key: str,
) -> ChampionEvidence | None:
    """All that is known of the champion tonight; None where there is none.

    Args:
        config: margins, and how many nights are looked back at.
        tonight: tonight's lists, and the champion's where it could be compared.
        champion: the champion on the same test moments; None without one.
        segments: labels of moments or of relevant items.
        nights: what earlier nights recorded.
        recipe_key: names tonight's recipe as `RECIPE_TAG` names those of earlier nights.
    """
    if champion is None:
        return None
    if champion.lost:
        return ChampionEvidence(champion.version, champion.how, lost=True)
    recorded, notes = _recorded(config, tonight, champion, nights)
    how, lists, users = champion.how, champion.lists, tonight.user_ids
    overall, parts = None, {}
    if lists is not None:
        overall = paired(tonight.truth, tonight.systems[MAIN], lists, users, config.metric)
        parts = _segments(config, tonight, lists, segments)
    elif recorded:
        # The only way left to hold the candidate against it.
        overall, recorded = recorded[0].steps[0], recorded[1:]
        how = f"by its recorded lists ({how})"
    earlier, count = _same_two_recipes(config, tonight, champion.version, nights, recipe_key)
    best, unseen = _best(config, tonight, overall, champion.version, nights)
    return ChampionEvidence(
        champion.version,
        how,
        overall=overall,
        segments=parts,
        same_recipe=champion.same_recipe,
        earlier=earlier,
        earlier_nights=count,
        recorded=recorded,
        own_nights=_own_nights(config, tonight, champion, nights),
        best=best,
        notes=[*notes, *unseen],
    )


def _segments(
    config: GateConfig,
    tonight: SavedLists,
    champion: RankedLists,
    segments: Mapping[str, SegmentLabels],
) -> dict[str, Paired | None]:
    """Every protected label against the champion; items restrict the truth, not the lists."""
    found: dict[str, Paired | None] = dict.fromkeys(config.protected)
    truth, own = tonight.truth, tonight.systems[MAIN]
    for labels in segments.values():
        for code, label in enumerate(labels.labels):
            if label not in found:
                continue
            of_groups = labels.of == "group"
            part = truth if of_groups else truth.restricted(labels.code == code)
            inside = labels.code == code if of_groups else part.lengths > 0
            pairs = paired(part, own, champion, tonight.user_ids, config.metric)
            if inside.any():
                found[label] = Paired(
                    pairs.ours[inside], pairs.theirs[inside], pairs.user[inside], pairs.same
                )
    return found


def _recorded(
    config: GateConfig, tonight: SavedLists, champion: ChampionResult, nights: EarlierNights
) -> tuple[list[Reference], list[str]]:
    """The champion by what it has shown: its recorded lists by tonight's labels and by those
    recorded with them, and its release at moments it has not seen."""
    found: list[Reference] = []
    notes = [champion.unasked] if champion.unasked else []
    version = f"version {champion.version}"
    kept = nights.lists(champion.version)
    here, there = _shared(tonight, kept)
    if kept is None or here is None or there is None:
        notes.append(_too_few(version, kept, tonight))
    else:
        ours, theirs = here.systems[MAIN], there.systems[MAIN]
        name = f"the champion's recorded lists ({version}"
        note = f"{len(here.truth.user):,} shared moments"
        by_ours = paired(here.truth, ours, theirs, here.user_ids, config.metric)
        found.append(Reference(f"{name})", (by_ours,), note))
        if champion.same_labels and not _same_truth(here.truth, there.truth):
            by_theirs = paired(there.truth, ours, theirs, there.user_ids, config.metric)
            kept_share = f"{_labels_kept(here.truth, there.truth):.0%} of the labels recorded then"
            note = f"{note}, {kept_share} are still in the log"
            found.append(Reference(f"{name}, by the labels of then)", (by_theirs,), note))
    if champion.released is not None:
        asked = tonight.take(champion.released.rows)
        pairs = paired(
            asked.truth,
            asked.systems[MAIN],
            champion.released.lists,
            asked.user_ids,
            config.metric,
        )
        note = f"{len(champion.released.rows):,} moments"
        found.append(
            Reference(f"the champion's release ({version}), unseen moments", (pairs,), note)
        )
    return found, notes


def _own_nights(
    config: GateConfig, tonight: SavedLists, champion: ChampionResult, nights: EarlierNights
) -> OwnNights | None:
    """Both nights by their own moments, where they share too few and events mean the same."""
    kept = nights.lists(champion.version)
    if kept is None or not champion.same_labels or _shared(tonight, kept)[0] is not None:
        return None
    ours, theirs = (
        paired(n.truth, n.systems[MAIN], n.systems[MAIN], n.user_ids, config.metric)
        for n in (tonight, kept)
    )
    return OwnNights(ours.ours, ours.user, theirs.ours, theirs.user)


def _shared(
    tonight: SavedLists, kept: SavedLists | None
) -> tuple[SavedLists, SavedLists] | tuple[None, None]:
    """The lists of both nights at shared moments; None where these are of too few users."""
    if kept is None:
        return None, None
    rows, others = tonight.shared(kept)
    if len(np.unique(tonight.truth.user[rows])) < FEW_USERS:
        return None, None
    return tonight.take(rows), kept.take(others)


def _too_few(version: str, kept: SavedLists | None, tonight: SavedLists) -> str:
    if kept is None:
        return (
            f"the recorded lists of {version} are gone or made under other caps, so it is not held "
            "against them"
        )
    shared = len(np.unique(tonight.truth.user[tonight.shared(kept)[0]]))
    return (
        f"the recorded lists of {version} share moments of {shared} users with tonight's, too few "
        f"({FEW_USERS}) to hold it against them"
    )


def _same_truth(one: Truth, other: Truth) -> bool:
    return np.array_equal(one.offsets, other.offsets) and np.array_equal(one.items, other.items)


def _labels_kept(now: Truth, then: Truth) -> float:
    """Share of the labels of then that are labels of the same moments now."""
    width = max(int(now.items.max(initial=0)), int(then.items.max(initial=0))) + 1
    keys = [t.group_of_item.astype(np.int64) * width + t.items for t in (now, then)]
    return float(np.isin(keys[1], keys[0]).mean()) if len(keys[1]) else 1.0


def _same_two_recipes(
    config: GateConfig,
    tonight: SavedLists,
    champion: int,
    nights: EarlierNights,
    recipe_key: str,
) -> tuple[Paired | None, int]:
    """Further moments, those of earlier nights that held tonight's recipe against the champion's,
    and how many nights they are of. A moment counts once, as the latest night saw it."""
    theirs = nights.tag(champion, RECIPE_TAG)
    seen = set(tonight.keys())
    found: list[Paired] = []
    for version in nights.versions if theirs is not None else ():
        against = version.tags.get(AGAINST_TAG, "")
        if version.tags.get(RECIPE_TAG) != recipe_key or not against.isdecimal():
            continue
        if nights.tag(int(against), RECIPE_TAG) != theirs:
            continue
        kept = nights.lists(version.version)
        rows = [] if kept is None else [r for r, key in enumerate(kept.keys()) if key not in seen]
        if kept is None or not rows or kept.champion() is None:
            continue
        part = kept.take(np.array(rows, np.intp))
        seen |= set(part.keys())
        found.append(_against_its_champion(part, config.metric))
    if not found:
        return None, 0
    whole = found[0]
    for part_pairs in found[1:]:
        whole = whole.joined(part_pairs)
    return whole, len(found)


def _against_its_champion(kept: SavedLists, metric: str) -> Paired:
    champion = kept.champion()
    assert champion is not None
    return paired(kept.truth, kept.systems[MAIN], champion[1], kept.user_ids, metric)


def _best(
    config: GateConfig,
    tonight: SavedLists,
    overall: Paired | None,
    champion: int,
    nights: EarlierNights,
) -> tuple[list[Reference], list[str]]:
    """Versions that served before the champion: by their recorded lists where enough moments are
    shared with tonight's, else through the nights between."""
    through = dict(_through_nights(config, tonight, overall, champion, nights))
    found: list[Reference] = []
    lacking: list[int] = []
    for version in nights.served:
        if version == champion:
            continue
        here, there = _shared(tonight, nights.lists(version))
        direct = here is not None and len(np.unique(here.truth.user)) >= config.min_group
        if here is not None and there is not None and (direct or version not in through):
            pairs = paired(
                here.truth, here.systems[MAIN], there.systems[MAIN], here.user_ids, config.metric
            )
            note = f"its recorded lists, {len(here.truth.user):,} shared moments"
            found.append(Reference(f"version {version}", (pairs,), note))
        elif version in through:
            steps = through[version]
            note = f"through the {len(steps)} nights that lie between"
            found.append(Reference(f"version {version}", steps, note))
        else:
            lacking.append(version)
    if not lacking:
        return found, []
    named = ", ".join(map(str, lacking))
    return found, [f"versions that served before and cannot be compared tonight: {named}"]


def _through_nights(
    config: GateConfig,
    tonight: SavedLists,
    overall: Paired | None,
    champion: int,
    nights: EarlierNights,
) -> Iterator[tuple[int, tuple[Paired, ...]]]:
    """Earlier versions with the comparisons that lead to them: tonight's against the champion, that
    of the champion's own night against the one before it, and so on."""
    compared = tonight.champion()
    if overall is None or compared is None or compared[0] != champion:
        return
    steps: tuple[Paired, ...] = (overall,)
    version = champion
    while (kept := nights.lists(version)) is not None:
        before = kept.champion()
        if before is None or before[0] not in nights.served or before[0] >= version:
            return
        version = before[0]
        steps = (*steps, _against_its_champion(kept, config.metric))
        yield version, steps
