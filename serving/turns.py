"""Rankings one after the other, and between any two a look at the network.

A ranking holds the event loop for milliseconds. What arrives meanwhile waits in the kernel, unseen
and uncounted: of 200 new connections each was accepted, read and ranked in turn, so nobody was ever
over the limit, and the last waited for all the others. So the loop accepts, reads and counts all
that is there before it lets the next ranking go.
"""

import asyncio
from collections import deque

LOOKS = 3
"""Rounds of the loop between two rankings: to accept, to read, to count."""


class Turns:
    """Lets one waiting task go at a time."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._passing = False

    async def take(self) -> None:
        """Come back when it is this task's turn; what it does then holds up the loop anyway."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if not self._passing:
            self._passing = True
            loop.call_soon(self._look, loop, LOOKS)
        await turn

    def _look(self, loop: asyncio.AbstractEventLoop, rounds: int) -> None:
        if rounds > 1:
            loop.call_soon(self._look, loop, rounds - 1)
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                # One round for the task itself.
                loop.call_soon(self._look, loop, LOOKS + 1)
                return
        self._passing = False
