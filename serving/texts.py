"""Texts of new items, encoded beside the event loop, many requests at once.

While one batch is encoded the next one gathers, so concurrent requests share a pass of the encoder
without anybody waiting for a timer. Requests that gave up waiting are not encoded for.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from recsys.serving.logs import log
from recsys.serving.released_model import ReleasedModel

Texts = Sequence[Mapping[str, Any]]
AT_ONCE = 64
"""Texts of one pass (assumed: some 0.3 s on one core), so that a long list holds nobody up for long."""


class TextBatcher:
    """Calls `ReleasedModel.prepare`, one batch at a time."""

    def __init__(self) -> None:
        self._waiting: list[_EncodeJob] = []
        self._running: asyncio.Task[None] | None = None

    async def prepare(self, engine: ReleasedModel, items: Texts, seconds: float) -> bool:
        """Have texts encoded; False when it was not done in time, and the engine must do without."""
        if not items:
            return True
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_EncodeJob(engine, items, done))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            await asyncio.wait_for(done, seconds)
        except TimeoutError:
            return False
        return True

    async def _run(self) -> None:
        while batch := self._next_batch():
            engine = batch[0].engine
            texts = [text for job in batch for text in job.take(AT_ONCE // len(batch) or 1)]
            try:
                await asyncio.to_thread(engine.prepare, texts)
            except Exception as error:
                log("error", "texts_not_encoded", error=repr(error)[:200])
            self._waiting = [job for job in self._waiting if not job.finished()]

    def _next_batch(self) -> list["_EncodeJob"]:
        """Up to AT_ONCE jobs for one engine, the longest waiting first."""
        self._waiting = [job for job in self._waiting if not job.done.done()]
        if not self._waiting:
            return []
        engine = self._waiting[0].engine
        return [job for job in self._waiting if job.engine is engine][:AT_ONCE]


class _EncodeJob:
    """One request's texts."""

    def __init__(self, engine: ReleasedModel, texts: Texts, done: "asyncio.Future[None]") -> None:
        self.engine, self.done = engine, done
        self._left = list(texts)

    def take(self, count: int) -> Texts:
        """The next texts to encode."""
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def finished(self) -> bool:
        """Whether all were taken; tells who waits."""
        if not self._left and not self.done.done():
            self.done.set_result(None)
        return not self._left
