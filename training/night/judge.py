"""May tonight's candidate take the champion's place: the evidence put together, the gate, the hooks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from recsys.data_schemas.errors import RecsysError
from recsys.evaluation.saved_lists import SavedLists
from recsys.storage.bundle import open_bundle
from recsys.storage.files import folder_bytes
from recsys.training.night import health, own_parts
from recsys.training.night.champion import recipe_of
from recsys.training.night.gate import (
    ChampionEvidence,
    Decision,
    Evidence,
    Guardrail,
    decide,
    veto,
)
from recsys.training.night.gate_evidence import (
    MASKED,
    EarlierNights,
    champion_evidence,
    floor,
    paired,
)
from recsys.training.night.guardrails import (
    guardrails,
    missing_parts,
    ranker_parts,
    sources_lost,
    without_trees,
)
from recsys.training.night.night_context import Night

VETO = "hooks.before_promote:"
"""Beginning of the gate's rule for a hook that spoke against a promotion."""


def judge(night: Night) -> Decision:
    """The gate's decision about tonight's release, which hooks may still speak against."""
    _say_what_is_missing(night)
    tonight, config = saved_lists(night), night.config.gate
    variants = night.lists.facts["variants"]
    decision = decide(
        config,
        Evidence(
            _of_champion(night, tonight),
            floor(tonight, night.lists.product, variants, config.metric),
            _rails(night),
            [f"{check.name}: {check.detail}" for check in night.leak_checks if check.refuses],
            [*health.stops(night.drifted), *_missing(night.lists.facts["failed"])],
        ),
    )
    _ask_hooks(night, decision)
    for warning in decision.alarms:
        night.alarm(warning)
    return decision


def saved_lists(night: Night) -> SavedLists:
    """Tonight's lists and the champion's: what this and later nights are compared by."""
    champion = night.champion.lists if night.champion else None
    own, asked = night.lists.product[0], night.asked
    assert asked.past is not None
    return SavedLists(
        night.data.interactions.user_ids,
        asked.truth,
        asked.past,
        {lists.name: lists for lists in (own, champion) if lists is not None},
    )


def _rails(night: Night) -> list[Guardrail]:
    """Limits that the candidate has to keep whatever its lists are worth."""
    size, theirs = _champions_bundle(night)
    champion = night.champion
    return [
        *guardrails(
            night.config.gate,
            night.evaluation,
            night.trial,
            champion.lists.name if champion and champion.lists else None,
            folder_bytes(night.bundle.product),
            size,
            night.served_parity,
        ),
        *ranker_parts(
            night.rankers.facts["ranker"], None if theirs is None else theirs.get("ranker", {})
        ),
        *sources_lost(night.recipe.failed, None if theirs is None else theirs["recipe"]["dials"]),
    ]


def _champions_bundle(night: Night) -> tuple[int | None, Mapping[str, Any] | None]:
    """Size of the champion's bundle and what it says of itself; None where there is none that can be
    read."""
    if night.champion is None or night.champion.lost:
        return None, None
    try:
        folder = night.registry.local_path(night.champion.version)
    except RecsysError:
        return None, None
    try:
        return folder_bytes(folder), open_bundle(folder, verify=False).facts
    except RecsysError:
        return folder_bytes(folder), None


def _of_champion(night: Night, tonight: SavedLists) -> ChampionEvidence | None:
    """The champion's part of the evidence."""
    config, champion = night.config, night.champion
    nights = EarlierNights.of(night.registry, config.gate.best_of_nights, config.serving.caps)
    found = champion_evidence(
        config.gate, tonight, champion, night.asked.segments, nights, recipe_of(night)
    )
    if found is None or champion is None or champion.masked is None:
        return found
    if MASKED not in config.gate.protected or found.overall is None:
        return found
    truth, own = night.masked.product
    _, theirs = champion.masked.open()
    if not truth.n_groups or own[0].items.shape != theirs[0].items.shape:
        return found
    pairs = paired(truth, own[0], theirs[0], tonight.user_ids, config.gate.metric)
    return replace(found, segments={**found.segments, MASKED: pairs})


def _missing(failed: Mapping[str, str]) -> list[str]:
    """Baselines that could not be fitted: a comparison with holes takes nobody's place."""
    return [f"the baseline “{name}” could not be fitted: {why}" for name, why in failed.items()]


def _say_what_is_missing(night: Night) -> None:
    """On the terminal and on the report's first screen."""
    ranker, has_window = night.rankers.facts["ranker"], bool(night.data.windows.ranker)
    for missing in missing_parts(ranker, has_window, night.lists.facts["failed"]):
        night.alarm(missing)
    if (no_trees := without_trees(ranker)) is not None:
        night.reporter.warn(no_trees)


def _ask_hooks(night: Night, decision: Decision) -> None:
    """Let the user's own hooks speak against a promotion."""
    if not (decision.promoted and night.config.hooks.before_promote):
        return
    numbers, reasons = night.evaluation.numbers(), tuple(decision.reasons)
    candidate = own_parts.PromotionCandidate(night.config.name, decision.champion, numbers, reasons)
    for name, reason in own_parts.vetoes(night.config, candidate, night.reporter):
        veto(decision, f"{VETO} {name}", reason)
