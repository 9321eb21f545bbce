"""A task's sleep, which a thread ends."""

from __future__ import annotations

import asyncio
import threading
import time

from slipway.serving.answering.waking import Waking

LONG_SECONDS = 60.0


def test_a_thread_ends_the_sleep_for_good() -> None:
    async def sleeper() -> None:
        waking = Waking()
        threading.Timer(0.05, waking.wake).start()
        await waking.sleep(LONG_SECONDS)
        await waking.sleep(LONG_SECONDS)

    start = time.monotonic()
    asyncio.run(sleeper())
    assert time.monotonic() - start < LONG_SECONDS


def test_who_was_woken_before_does_not_sleep() -> None:
    async def sleeper() -> None:
        waking = Waking()
        waking.wake()
        await waking.sleep(LONG_SECONDS)

    start = time.monotonic()
    asyncio.run(sleeper())
    assert time.monotonic() - start < LONG_SECONDS


def test_a_sleep_that_nobody_ends_ends_by_itself_and_may_be_begun_anew() -> None:
    async def sleeper() -> None:
        waking = Waking()
        for _ in range(3):
            await waking.sleep(0.02)

    start = time.monotonic()
    asyncio.run(sleeper())
    assert time.monotonic() - start >= 0.05


def test_to_wake_who_is_gone_is_nothing() -> None:
    async def left() -> Waking:
        waking = Waking()
        sleeping = asyncio.ensure_future(waking.sleep(LONG_SECONDS))
        await asyncio.sleep(0)
        sleeping.cancel()
        await asyncio.gather(sleeping, return_exceptions=True)
        waking.wake()
        await asyncio.sleep(0)
        return waking

    asyncio.run(left()).wake()
