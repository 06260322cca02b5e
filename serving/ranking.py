"""One ranked list: choose the version, ask it, mix or explore if so configured, log what was shown."""

import asyncio
import base64
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from recsys.data_schemas import columns as c
from recsys.data_schemas.api import (
    Experiment,
    RankedItem,
    RankedList,
    Reasons,
)
from recsys.data_schemas.errors import UsageError
from recsys.data_schemas.log_record import KNOWN_POSITION
from recsys.data_schemas.shards import SESSION_ELSEWHERE, WRONG_SHARD
from recsys.query import RankingQuery, RankingResult
from recsys.serving import telemetry as metrics
from recsys.serving import tracing
from recsys.serving.experiments import Assignment, assigned, explore, team_draft
from recsys.serving.fallback import cold_answer
from recsys.serving.loaded_versions import Versions
from recsys.serving.logs import log
from recsys.serving.problems import refused, unavailable
from recsys.serving.released_model import ReleasedModel
from recsys.serving.settings import ServiceSettings
from recsys.serving.shadow import Differences
from recsys.serving.texts import TextBatcher
from recsys.serving.turns import Turns
from recsys.storage.eventlog import ImpressionBuffer
from recsys.storage.eventlog.retention import FEATURES
from recsys.storage.experiment_records import CHALLENGER, INTERLEAVED

_STEPS: dict[str, Any] = {}
_RECALLS: dict[bool, Any] = {
    kept: metrics.RECALLS.labels(outcome="kept" if kept else "read") for kept in (True, False)
}
_encode = msgspec.json.Encoder().encode


class Ranking:
    """Answers rank and recommend requests."""

    def __init__(
        self,
        versions: Versions,
        impressions: ImpressionBuffer,
        settings: ServiceSettings,
        rng: random.Random | None = None,
    ) -> None:
        self._versions, self._impressions, self._settings = versions, impressions, settings
        self._texts, self._turns = TextBatcher(), Turns()
        self._differences = Differences(settings.shadow)
        self._trials = settings.trials
        self._rng = rng or random.Random()

    async def answer(
        self, ask: RankingQuery, version: str | None, surface: str | None, replay: bool
    ) -> RankedList:
        """Rank, log the impression (not for a replay), give the list.

        Raises:
            Problem: the version does not exist, or nothing is loaded.
        """
        engine, experiment = await self._choose(ask, version, replay)
        encoded = await self._encoded(engine, ask)
        if replay and not encoded:
            raise unavailable("The texts were not encoded in time; a replay is exact or fails.")
        await self._turns.take()
        if experiment is not None and experiment.arm == INTERLEAVED:
            return self._interleaved(ask, engine, experiment, surface)
        answer = self._asked(engine, ask, replay)
        if not encoded and "text_encoder_late" not in answer.degraded:
            answer.degraded = ["text_encoder_late", *answer.degraded]
        if self._settings.shadow is not None and not replay:
            asyncio.get_running_loop().call_soon(self._shadow, ask, answer.item_ids)
        return self._finish(ask, engine, answer, experiment, surface, replay, None)

    async def _choose(
        self, ask: RankingQuery, version: str | None, replay: bool
    ) -> tuple[ReleasedModel, Assignment | None]:
        """The engine that answers this unit, and the part the list takes in an experiment.

        Nobody is in an arm while a version of the experiment is not open yet, nor when the challenger
        has become the control; nor is who opted out, of whom nothing may be learned.
        """
        if version is not None or replay:
            return await self._versions.get(version), None
        champion, trial = self._versions.champion(), self._trials.running()
        if trial is None or ask.user_id in self._settings.opted_out:
            return champion, None
        control = champion if trial.control is None else self._versions.open_version(trial.control)
        challenger = self._versions.open_version(trial.challenger)
        if control is None or challenger is None or control is challenger:
            return champion, None
        part = assigned(trial, ask)
        if part is None:
            return champion, None
        return (challenger if part.arm == CHALLENGER else control), part

    async def _encoded(self, engine: ReleasedModel, ask: RankingQuery) -> bool:
        if not ask.new_items:
            return True
        left = 1.0 if ask.deadline is None else max(0.0, ask.deadline - time.monotonic())
        return await self._texts.prepare(engine, list(ask.new_items.values()), left)

    def _asked(self, engine: ReleasedModel, ask: RankingQuery, replay: bool) -> RankingResult:
        """The engine's answer; a popular list where it fails or the time was spent in waiting.

        A replay is exact or fails.

        Raises:
            Problem: a filter or a cap names a column that items do not have (422).
        """
        try:
            return self._answered(engine, ask, replay)
        except UsageError as error:
            raise refused(error) from None

    def _answered(self, engine: ReleasedModel, ask: RankingQuery, replay: bool) -> RankingResult:
        elsewhere = self._elsewhere(ask)
        if replay:
            if elsewhere:
                raise unavailable(
                    "This worker does not keep the person; a replay is exact or fails."
                )
            return engine.answer(ask)
        answer = self._in_time(engine, self._as_asked_for(ask))
        answer.degraded = [*elsewhere, *answer.degraded]
        return answer

    def _in_time(self, engine: ReleasedModel, ask: RankingQuery) -> RankingResult:
        if ask.deadline is not None and time.monotonic() > ask.deadline:
            return cold_answer(engine, self._versions.cold_list(engine), ask, "ranking_late")
        try:
            return engine.answer(ask)
        except UsageError:
            raise
        except Exception as error:
            log("error", "ranking_failed", version=engine.version, error=repr(error)[:300])
            return cold_answer(engine, self._versions.cold_list(engine), ask, "ranking_failed")

    def _as_asked_for(self, ask: RankingQuery) -> RankingQuery:
        """Who opted out is answered as somebody new, and so is whose history another worker keeps:
        nothing that is kept of them is read."""
        unread = ask.user_id in self._settings.opted_out or not self._settings.keeps(ask.user_id)
        session = ask.session if self._settings.keeps(ask.session) else ""
        if not unread and session == ask.session:
            return ask
        return replace(ask, user_id="" if unread else ask.user_id, session=session)

    def _elsewhere(self, ask: RankingQuery) -> list[str]:
        """What an answer is made without because other workers keep it."""
        found = [] if self._settings.keeps(ask.user_id) else [WRONG_SHARD]
        return found if self._settings.keeps(ask.session) else [*found, SESSION_ELSEWHERE]

    def _shadow(self, ask: RankingQuery, shown: list[str]) -> None:
        """Ask the shadow the same after the answer went out; only the agreement is kept."""
        engine = self._versions.open_version(str(self._settings.shadow))
        if engine is None or not shown:
            return
        began = time.perf_counter()
        try:
            # The deadline is that of the answer already given; new texts were encoded for it.
            other = engine.answer(
                replace(self._as_asked_for(ask), explain=0, deadline=float("inf"))
            )
        except Exception as error:
            log("warning", "shadow_failed", version=self._settings.shadow, error=repr(error)[:200])
            return
        self._differences.add(shown, other.item_ids, time.perf_counter() - began)

    def _interleaved(
        self,
        ask: RankingQuery,
        champion: ReleasedModel,
        experiment: Assignment,
        surface: str | None,
    ) -> RankedList:
        """Team draft of the control's list and the challenger's; each item names its version."""
        challenger = self._versions.open_version(experiment.experiment.challenger)
        if challenger is None or challenger is champion:
            answer = self._asked(champion, ask, False)
            return self._finish(ask, champion, answer, None, surface, False, None)
        first = self._asked(champion, ask, False)
        second = self._asked(challenger, replace(ask, explain=0), False)
        scores = [dict(zip(a.item_ids, a.scores, strict=True)) for a in (first, second)]
        length = max(len(first.item_ids), len(second.item_ids))
        drafted = team_draft(first.item_ids, second.item_ids, length, self._rng)
        names = (champion.version, challenger.version)
        merged = RankingResult(
            item_ids=[item for item, _ in drafted],
            scores=[scores[team][item] for item, team in drafted],
            unknown=first.unknown,
            degraded=[*first.degraded, *(d for d in second.degraded if d not in first.degraded)],
            steps_ms=first.steps_ms,
            kept=first.kept,
        )
        if first.reasons:
            by_item = dict(zip(first.item_ids, first.reasons, strict=False))
            merged.reasons = [by_item.get(item, {}) for item in merged.item_ids[: ask.explain]]
        if ask.rules:
            moved = [dict(zip(a.item_ids, a.rules, strict=False)) for a in (first, second)]
            merged.rules = [moved[team].get(item, "") for item, team in drafted]
        teams = [names[team] for _, team in drafted]
        return self._finish(ask, champion, merged, experiment, surface, False, teams)

    def _finish(
        self,
        ask: RankingQuery,
        engine: ReleasedModel,
        answer: RankingResult,
        experiment: Assignment | None,
        surface: str | None,
        replay: bool,
        teams: list[str] | None,
    ) -> RankedList:
        """Explore, count, log, and give the list."""
        propensities = [1.0] * len(answer.item_ids)
        order: Sequence[int] = range(len(propensities))
        if self._settings.explore_share > 0.0 and not replay and teams is None:
            order, propensities = explore(list(order), self._settings.explore_share, self._rng)
        version = engine.version if teams is None else "+".join(sorted(set(teams)))
        ranked = RankedList(
            model_version=version,
            impression_id=os.urandom(16).hex(),
            items=_items(answer, order, teams),
            unknown=answer.unknown,
            degraded=answer.degraded,
            experiment=experiment
            and Experiment(name=experiment.experiment.name, arm=experiment.arm),
        )
        _count(answer)
        tracing.ranked(version, len(order), answer.degraded, answer.steps_ms)
        if not replay and order:
            # Nothing was shown by an empty list, and nothing is to be learned from it.
            self._log(ask, engine, answer, order, propensities, ranked, surface, teams, experiment)
        return ranked

    def _log(
        self,
        ask: RankingQuery,
        engine: ReleasedModel,
        answer: RankingResult,
        order: Sequence[int],
        propensities: list[float],
        ranked: RankedList,
        surface: str | None,
        teams: list[str] | None,
        experiment: Assignment | None,
    ) -> None:
        """Hand the impression over; it is written in groups off this path."""
        shown: dict[str, Any] = {
            c.IMPRESSION_ID: ranked.impression_id,
            c.USER_ID: ask.user_id,
            c.TIMESTAMP: ask.now,
            c.RECEIVED_AT: ask.now,
            c.ITEM_IDS: _in_order(answer.item_ids, order),
            c.PROPENSITIES: propensities,
            c.SCORES: _in_order(answer.scores, order),
            c.MODEL_VERSION: ranked.model_version,
            c.SURFACE: surface,
            c.CONTEXT: _encode(dict(ask.context)).decode() if ask.context else None,
            KNOWN_POSITION: engine.log_position,
        }
        if teams is not None:
            shown[c.TEAMS] = teams
        if experiment is not None:
            shown[c.EXPERIMENT], shown[c.ARM] = experiment.experiment.name, experiment.arm
            if experiment.unit is not None:
                shown[c.UNIT] = experiment.unit
        if any(answer.rules):
            moved = {answer.item_ids[i]: answer.rules[i] for i in order if answer.rules[i]}
            shown[c.RULES] = _encode(moved).decode()
        if ranked.degraded:
            shown[c.DEGRADED] = ranked.degraded
        # Of somebody who opted out a night has no history to recompute the rows from.
        logged = answer.features is not None and ask.user_id not in self._settings.opted_out
        if logged and self._rng.random() < self._settings.parity_share:
            shown[FEATURES] = _sample(ask, answer, self._settings.parity_rows)
        self._impressions.add(shown)


def _in_order(values: list[Any], order: Sequence[int]) -> list[Any]:
    """The values in an order, which most of the time is their own."""
    return values if isinstance(order, range) else [values[i] for i in order]


def _items(
    answer: RankingResult, order: Sequence[int], teams: list[str] | None
) -> list[RankedItem]:
    ids, scores = answer.item_ids, answer.scores
    if not answer.reasons and teams is None and not answer.rules:
        return list(map(RankedItem, _in_order(ids, order), _in_order(scores, order)))
    reasons = answer.reasons or []
    return [
        RankedItem(
            item_id=ids[i],
            score=scores[i],
            reasons=msgspec.convert(reasons[i], Reasons) if i < len(reasons) else None,
            team=teams[i] if teams else None,
            rule=(answer.rules[i] or None) if answer.rules else None,
        )
        for i in order
    ]


def _sample(ask: RankingQuery, answer: RankingResult, rows: int) -> str:
    """Feature rows of the first items with what is needed to compute them again, as JSON."""
    assert answer.features is not None
    block = answer.features[:rows].astype("<f4")
    facts: Mapping[str, Any] = {
        "items": answer.item_ids[: len(block)],
        "columns": int(block.shape[1]),
        "float32": base64.b64encode(block.tobytes()).decode(),
        "context": dict(ask.context),
        # Two stored histories as one are known to the request alone, as one sent along is.
        "inline_history": bool(ask.history) or bool(ask.session),
        "inline_items": sorted(ask.new_items),
        "recommended": ask.items is None,
        "keep_seen": ask.keep_seen,
        "exclude": list(ask.exclude),
        "filters": dict(ask.filters),
        "snapshot": answer.snapshot,
        "waiting": answer.waiting,
        "degraded": answer.degraded,
    }
    return _encode(facts).decode()


def _count(answer: RankingResult) -> None:
    metrics.CANDIDATES.observe(len(answer.item_ids))
    if answer.kept is not None:
        _RECALLS[answer.kept].inc()
    if answer.unknown:
        metrics.UNKNOWN.inc(len(answer.unknown))
    for reason in answer.degraded:
        metrics.DEGRADED.labels(reason=reason).inc()
    for step, milliseconds in answer.steps_ms.items():
        timer = _STEPS.get(step)
        if timer is None:
            timer = _STEPS[step] = metrics.STEP.labels(step=step)
        timer.observe(milliseconds / 1000)
