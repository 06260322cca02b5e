"""Which engines are in service: the champion, versions asked for by name, and those of experiments.

A new champion is opened and warmed beside the old one, brought up to the log's end, and put in its
place between two requests. A request keeps the engine it began with, so no answer mixes versions.
"""

import asyncio
import gc
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

from recsys.data_schemas import columns as c
from recsys.data_schemas.errors import RecsysError
from recsys.features.counters import load_kernels
from recsys.query import RankingQuery, SimilarQuery
from recsys.serving import telemetry as metrics
from recsys.serving.clock import Clock
from recsys.serving.fallback import COLD_LENGTH
from recsys.serving.follower import Follower, Live
from recsys.serving.logs import log
from recsys.serving.problems import Problem, unavailable
from recsys.serving.released_model import ModelProvider, ReleasedModel
from recsys.serving.served_opt_outs import OptOuts
from recsys.serving.settings import ServiceSettings
from recsys.storage.eventlog import EventLog, LogUnavailable
from recsys.storage.registry.version_tags import CHAMPION, RegistryError

RETRY_SECONDS = 30.0
"""Before a version that failed to load, or was not there, is tried again."""
NAME_SECONDS = 5.0
"""For which a name leads to the same version."""
NAMES_KEPT = 256
"""Names whose versions are kept; beyond, the oldest go."""


class Versions:
    """The engines of one worker."""

    def __init__(
        self,
        provider: ModelProvider,
        event_log: EventLog,
        clock: Clock,
        settings: ServiceSettings,
        opt_outs: OptOuts,
    ) -> None:
        self._provider, self._settings = provider, settings
        self._clock = clock
        self.follower = Follower(event_log, clock, self.live, opt_outs)
        self._champion: Live | None = None
        self._pinned: OrderedDict[str, Live] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Live]] = {}
        self._opening = asyncio.Lock()
        self._names = _Names(provider)
        self._failed: dict[str, float] = {}
        self._trials = settings.trials

    # reading

    def live(self) -> Iterator[Live]:
        """Every engine in service."""
        if self._champion is not None:
            yield self._champion
        yield from self._pinned.values()

    @property
    def ready(self) -> bool:
        return self._champion is not None

    def champion(self) -> ReleasedModel:
        """The engine that answers when nobody asks for another.

        Raises:
            Problem: none is loaded yet (503).
        """
        if self._champion is None:
            raise unavailable("No model is loaded yet.", retry_after=2)
        return self._champion.engine

    def cold_list(self, engine: ReleasedModel) -> list[str]:
        """What a new user gets from an engine in service, best first."""
        return next((live.cold for live in self.live() if live.engine is engine), [])

    def open_version(self, version: str) -> ReleasedModel | None:
        """An engine already in service, or None."""
        if self._champion is not None and self._champion.engine.version == version:
            return self._champion.engine
        pinned = self._pinned.get(version)
        return pinned.engine if pinned else None

    def roles(self) -> dict[str, str]:
        """version → `champion`, `shadow` or `pinned`."""
        roles = dict.fromkeys(self._pinned, "pinned")
        if self._settings.shadow in roles:
            roles[str(self._settings.shadow)] = "shadow"
        if self._champion is not None:
            roles[self._champion.engine.version] = "champion"
        return roles

    async def get(self, version: str | None) -> ReleasedModel:
        """The champion, or the version asked for by any of its names, which is opened if needed.

        Names lead to one engine each; `champion` is the one in service, whichever that is. One version
        is opened at a time, and what was refused is not looked for again for a while, so that
        nobody fills the memory or keeps the disk busy by asking.

        Raises:
            Problem: there is no such version (404); it or another is still being opened (503).
        """
        if version in (None, CHAMPION):
            return self.champion()
        assert version is not None
        number = version if self.open_version(version) else await self._names.resolve(version)
        found = self.open_version(number)
        if found is not None:
            if number in self._pinned:
                self._pinned.move_to_end(number)
            return found
        task = self._loading.get(number)
        if task is None and self._loading:
            metrics.VERSIONS_REFUSED.labels(reason="busy").inc()
            raise unavailable("Another version is being opened; try again shortly.", 2)
        task = task or self._start_loading(number)
        budget = self._settings.timeout_ms / 1000 * 0.8
        try:
            return (await asyncio.wait_for(asyncio.shield(task), budget)).engine
        except TimeoutError:
            raise unavailable(f"Version {version!r} is being opened.", retry_after=2) from None
        except RecsysError as error:
            raise self._names.refuse(version, error) from None

    @property
    def _kept(self) -> set[str]:
        """Versions that stay open whoever asks: the shadow's and those of the running experiment."""
        trial = self._trials.running()
        versions = (self._settings.shadow, *((trial.challenger, trial.control) if trial else ()))
        return {version for version in versions if version}

    # changing

    async def watch(self) -> None:
        """Keep the registry's champion in service, and the experiments' versions, over the newest
        snapshot; until cancelled."""
        while True:
            try:
                newest = await asyncio.to_thread(self._provider.snapshot)
                await self._follow_champion(newest)
                await self._renew_pinned(newest)
                for version in self._kept - set(self._pinned):
                    if self.ready and self.open_version(version) is None:
                        await self.get(version)
            except Exception as error:
                detail = error.what if isinstance(error, RecsysError) else repr(error)[:300]
                log("error", "champion_not_loaded", reason=detail)
            await asyncio.sleep(self._settings.champion_poll if self.ready else 1.0)

    async def _follow_champion(self, newest: str | None) -> None:
        """Look at the registry once; swap when the champion is another version, or there is a newer
        snapshot: what was folded since the former one is let go with it.

        Args:
            newest: the newest snapshot; None where it cannot be told.
        """
        version = await asyncio.to_thread(self._provider.poll)
        if self._champion is not None:
            serving = self._champion.engine
            version = version or serving.version
            if version == serving.version and newest in (None, serving.snapshot):
                return
        wanted = f"{version} {newest}"
        if version is not None and time.monotonic() < self._failed.get(wanted, 0.0):
            return
        try:
            live = self._pinned.get(version or "")
            if live is None or newest not in (None, live.engine.snapshot):
                live = await self._open(version)
        except Exception:
            if version is not None:
                self._failed = {wanted: time.monotonic() + RETRY_SECONDS}
            raise
        self._swap(live)

    async def _renew_pinned(self, newest: str | None) -> None:
        """Let versions beside the champion go that lie over a former snapshot; those that must stay
        open are opened anew."""
        for version, live in list(self._pinned.items()):
            if newest in (None, live.engine.snapshot):
                continue
            if version in self._kept:
                self._pinned[version] = await self._open(version)
            elif self._pinned.get(version) is live:
                del self._pinned[version]

    def _swap(self, live: Live) -> None:
        """Between two requests: nothing here waits."""
        old, self._champion = self._champion, live
        new_version = live.engine.version
        self._pinned.pop(new_version, None)
        if old is not None:
            if old.engine.version in self._kept and old.engine.version != new_version:
                self._pinned[old.engine.version] = old
            metrics.MODEL.labels(version=old.engine.version).set(0)
        metrics.MODEL.labels(version=new_version).set(1)
        if self._clock.frozen:
            self._clock.observe(live.engine.moment - 1)
        metrics.SWAPS.inc()
        metrics.VERSIONS_OPEN.set(sum(1 for _ in self.live()))
        log(
            "info",
            "champion",
            version=new_version,
            log_position=live.position,
            snapshot=live.engine.snapshot,
        )

    def _start_loading(self, version: str) -> "asyncio.Task[Live]":
        task = asyncio.create_task(self._pin(version))
        self._loading[version] = task

        def finished(done: "asyncio.Task[Live]") -> None:
            self._loading.pop(version, None)
            if not done.cancelled() and done.exception() is not None:
                log("warning", "version_not_opened", version=version)

        task.add_done_callback(finished)
        return task

    async def _pin(self, version: str) -> Live:
        live = await self._open(version)
        self._pinned[version] = live
        others = [name for name in self._pinned if name not in self._kept and name != version]
        for name in others[: max(0, len(others) + 1 - self._settings.pinned_versions)]:
            del self._pinned[name]
        metrics.VERSIONS_OPEN.set(sum(1 for _ in self.live()))
        return live

    async def _open(self, version: str | None) -> Live:
        """Open, warm, and bring to the log's end, all beside the engines in service."""
        async with self._opening:
            return await self._opened(version)

    async def _opened(self, version: str | None) -> Live:
        started = time.monotonic()
        engine, cold = await asyncio.to_thread(self._load, version)
        live = Live(engine, engine.log_position, cold)
        await self.follower.expect(engine)
        await self._joined(live)
        log("info", "opened", version=engine.version, seconds=round(time.monotonic() - started, 2))
        return live

    async def _joined(self, live: Live) -> None:
        """Bring an engine to the log's end; where the log is refused, it serves as it is."""
        try:
            await self.follower.catch_up(joining=live)
        except LogUnavailable as error:
            log("error", "log_not_read", reason=error.what)

    def _load(self, version: str | None) -> tuple[ReleasedModel, list[str]]:
        """Open and warm; the list of a new user is kept for bad times."""
        engine = self._provider.load(version)
        moment = engine.moment if self._clock.frozen else self._clock.now()
        cold = warm(engine, moment)
        # What a release keeps is never garbage: the collector need not walk it during requests.
        # What was kept of versions that are gone is looked at again first.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        return engine, cold


class _Names:
    """What the names of versions lead to, as the registry says; asked seldom, kept for some seconds."""

    def __init__(self, provider: ModelProvider) -> None:
        self._provider = provider
        self._known: OrderedDict[str, tuple[str | Problem, float]] = OrderedDict()

    async def resolve(self, name: str) -> str:
        """The number of a version.

        Raises:
            Problem: there is no such version (404), or the registry does not answer (503).
        """
        found, until = self._known.get(name, ("", 0.0))
        if time.monotonic() < until:
            if isinstance(found, Problem):
                metrics.VERSIONS_REFUSED.labels(reason="unknown").inc()
                raise found
            return found
        try:
            number = await asyncio.to_thread(self._provider.resolve, name)
        except RegistryError:
            raise unavailable("The registry does not answer.", retry_after=5) from None
        except RecsysError as error:
            raise self.refuse(name, error) from None
        self._keep(name, number, NAME_SECONDS)
        return number

    def refuse(self, name: str, error: RecsysError) -> Problem:
        """The answer for a version that cannot be opened, and for whoever asks for it next."""
        metrics.VERSIONS_REFUSED.labels(reason="unknown").inc()
        problem = Problem(404, f"There is no model version {name!r}: {error.what}.")
        self._keep(name, problem, RETRY_SECONDS)
        return problem

    def _keep(self, name: str, found: str | Problem, seconds: float) -> None:
        self._known[name] = (found, time.monotonic() + seconds)
        self._known.move_to_end(name)
        if len(self._known) > NAMES_KEPT:
            self._known.popitem(last=False)


def warm(engine: ReleasedModel, now: int) -> list[str]:
    """Go once down every path a request may take, so that none is met cold (compiled kernels,
    mapped pages), and load what folds the log; gives the list of a new user."""
    load_kernels()
    cold = engine.answer(RankingQuery(user_id="", now=now, k=COLD_LENGTH)).item_ids
    some = cold[:5]
    if some:
        past = [{c.ITEM_ID: some[0], c.EVENT_TYPE: "click", c.TIMESTAMP: now - 1, c.VALUE: None}]
        ask = RankingQuery(
            user_id="", now=now, k=3, history=past, exclude=some[:1], diversity=0.5, explain=3
        )
        engine.answer(ask)
        engine.answer(replace(ask, items=some, diversity=0.0))
        engine.answer(replace(ask, filters={c.CATEGORY: [""]}))
        engine.similar_to(SimilarQuery(some[:1], now, k=3))
        engine.item(some[0])
    engine.user("")
    return cold
