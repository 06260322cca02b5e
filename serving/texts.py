"""Texts of new items, encoded beside the event loop, many requests at once.

While one batch is encoded the next one gathers, so concurrent requests share a pass of the encoder
without anybody waiting for a timer.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from serving.engine import Engine, Preparing
from serving.logs import log

Texts = Sequence[Mapping[str, Any]]


class TextBatcher:
    """Calls `Engine.prepare` where an engine has it; one batch at a time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Engine, Texts, asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None

    async def prepare(self, engine: Engine, items: Texts, seconds: float) -> bool:
        """Have texts encoded; False when it was not done in time, and the engine must do without."""
        if not items or not hasattr(engine, "prepare"):
            return True
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((engine, items, done))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            await asyncio.wait_for(done, seconds)
        except TimeoutError:
            return False
        return True

    async def _run(self) -> None:
        while self._waiting:
            engine = self._waiting[0][0]
            batch = [job for job in self._waiting if job[0] is engine]
            self._waiting = [job for job in self._waiting if job[0] is not engine]
            texts = [item for _, items, _ in batch for item in items]
            try:
                await asyncio.to_thread(cast(Preparing, engine).prepare, texts)
            except Exception as error:
                log("error", "texts_not_encoded", error=repr(error)[:200])
            for *_, done in batch:
                if not done.done():
                    done.set_result(None)
