"""Time as part of a scenario: how long a fault lasts, how fast a load is. Never to wait for something to happen."""

from __future__ import annotations

import asyncio


async def elapsed(seconds: float) -> None:
    """That long."""
    over = asyncio.Event()
    timer = asyncio.get_running_loop().call_later(seconds, over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()
