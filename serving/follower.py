"""The online state as a fold over the log: every engine in service has folded the same records.

Own writes come back through the log like everybody else's, so a crash, a second worker and a
replay all reach the same state.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from recsys.data_schemas import columns as c
from recsys.serving import telemetry as metrics
from recsys.serving.clock import Clock
from recsys.serving.logs import log
from recsys.serving.released_model import ReleasedModel
from recsys.serving.served_opt_outs import OptOuts
from recsys.storage.eventlog import EventLog, LogRecord, LogUnavailable

BATCH = 1000
"""Records read from the log at once."""
AT_ONCE = 500
"""Records, and items of shown lists, folded before the event loop gets a turn (some 0.5 µs each, measured)."""
REST = 4.0
"""Times as long as it took that the loop is left to others after them, unless somebody waits."""
PAUSE = 10.0
"""Seconds before texts are tried again that could not be encoded."""


@dataclass(eq=False)
class Live:
    """An engine in service and how far it has followed the log."""

    engine: ReleasedModel
    position: int
    cold: list[str]
    """What a new user gets, best first; the last resort when the engine fails."""


class Follower:
    """Brings engines up to the log's end, on the event loop, in position order.

    A log that is not the one that was read before is not followed: what it holds does not belong to
    the state, and what is missing there must not look as if it had never happened.
    """

    def __init__(
        self,
        log: EventLog,
        clock: Clock,
        engines: Callable[[], Iterable[Live]],
        opt_outs: OptOuts,
    ) -> None:
        self._log, self._clock, self._engines = log, clock, engines
        self._opt_outs = opt_outs
        self._met_opt_outs = False
        """Whether those before the snapshots were read."""
        self._turn = asyncio.Lock()
        self._hurried = 0
        """Who waits for what is new to be folded."""

    async def catch_up(self, until: int | None = None, joining: Live | None = None) -> None:
        """Fold what is new into every engine in service, and into one that is about to join.

        With `until` it returns at once when that position is folded already. While nobody waits for it,
        most of the time is left to others.
        """
        hurried = until is not None or joining is not None
        self._hurried += hurried
        try:
            async with self._turn:
                await self._caught_up(until, joining)
        finally:
            self._hurried -= hurried

    async def _caught_up(self, until: int | None, joining: Live | None) -> None:
        while True:
            engines = [*self._engines(), *([joining] if joining else [])]
            behind = min((live.position for live in engines), default=0)
            if not engines or (until is not None and behind >= until):
                return
            records = await asyncio.to_thread(self._read, behind)
            self._opt_outs.take(records)
            if not records:
                metrics.STATE_LAG.set(0)
                return
            for some in portions(records):
                began = time.perf_counter()
                for live in engines:
                    fold(live, [r for r in some if r.position > live.position])
                held = time.perf_counter() - began
                await asyncio.sleep(0 if self._hurried else held * REST)
            self._clock.observe(max(record.received_at for record in records))
            if len(records) < BATCH:
                metrics.STATE_LAG.set(0)
                return

    def _read(self, after: int) -> list[LogRecord]:
        if self._log.trouble is not None:
            self._log.check()
        if not self._met_opt_outs:
            self._opt_outs.take(self._log.opt_outs())
            self._met_opt_outs = True
        self._log.require_kept(after)
        return self._log.read(after, BATCH)

    async def expect(self, engine: ReleasedModel) -> None:
        """Hold the log to what a release's snapshot holds of it; where it does not, the service
        answers and is not ready."""
        try:
            await asyncio.to_thread(self._log.expect, engine.log_mark)
        except LogUnavailable as error:
            self._refused(error)

    def _refused(self, error: LogUnavailable) -> None:
        metrics.LOG_ERRORS.inc()
        metrics.LOG_REFUSED.set(self._log.trouble is not None)
        log("error", "log_refused", reason=error.what, found=error.found, expected=error.expected)

    async def encode_new(self) -> None:
        """Have the texts of posted items encoded, a few at a time, so that recall finds them by text."""
        for live in list(self._engines()):
            if live.engine.waiting:
                while await asyncio.to_thread(live.engine.encode_new):
                    pass

    async def keep_encoding(self, seconds: float) -> None:
        """Encode what was posted every few moments; until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.encode_new()
            except Exception as error:
                log("error", "new_items_not_encoded", error=repr(error)[:200])
                await asyncio.sleep(PAUSE)

    async def follow(self, seconds: float) -> None:
        """Catch up every few moments, for what other workers wrote; until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await asyncio.to_thread(self._log.check)
                self._clock.observe_log(*await asyncio.to_thread(self._log.clocks))
                await self.catch_up()
                metrics.LOG_REFUSED.set(self._clock.trouble is not None)
            except LogUnavailable as error:
                metrics.STATE_LAG.set(float("nan"))
                self._refused(error)
            except Exception as error:
                metrics.LOG_ERRORS.inc()
                metrics.STATE_LAG.set(float("nan"))
                log("error", "log_not_read", error=type(error).__name__)


def portions(records: list[LogRecord]) -> Iterator[list[LogRecord]]:
    """The records in order, in parts that hold the loop up for a fraction of a millisecond."""
    part: list[LogRecord] = []
    work = 0
    for record in records:
        part.append(record)
        shown = record.payload.get(c.ITEM_IDS)
        work += 1 + (len(shown) if isinstance(shown, list) else 0)
        if work >= AT_ONCE:
            yield part
            part, work = [], 0
    if part:
        yield part


def fold(live: Live, records: list[LogRecord]) -> None:
    """Apply records; one that cannot be folded is left out, counted and named by its position."""
    if not records:
        return
    try:
        live.engine.apply(records)
    except Exception:
        for record in records:
            if record.position <= live.engine.log_position:
                continue
            try:
                live.engine.apply([record])
            except Exception as error:
                metrics.LOG_ERRORS.inc()
                log("error", "record_not_folded", position=record.position, error=repr(error)[:200])
    live.position = records[-1].position
