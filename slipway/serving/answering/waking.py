"""How a request of the event loop sleeps until a thread has its answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Waking:
    """A sleep of one task, which any thread ends once and for all.

    From the thread to the task it takes two turns of the event loop, where ``asyncio.wrap_future`` and ``asyncio.wait``
    take four.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asleep: asyncio.Future[None] | None = None
        self._woken = False

    def wake(self) -> None:
        """End the sleep, and let none begin any more."""
        with suppress(RuntimeError):  # the loop has ended, and with it the task
            self._loop.call_soon_threadsafe(self._wake)

    async def sleep(self, seconds: float) -> None:
        """Sleep so long, or until it is woken."""
        if self._woken:
            return
        self._asleep = self._loop.create_future()
        alarm = self._loop.call_later(seconds, self._rouse)
        try:
            await self._asleep
        finally:
            alarm.cancel()
            self._asleep = None

    def _wake(self) -> None:
        self._woken = True
        self._rouse()

    def _rouse(self) -> None:
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)
