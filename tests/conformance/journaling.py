"""A publisher as a process, to be killed: writes each id to its output once it is accepted, until then.

``python -m tests.conformance.journaling URL DIRECTORY``
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys

from bridge.client import Bridge
from tests.conformance.fleet import Desk, do

CALLERS = 20


async def publish(url: str, directory: str) -> None:
    numbers = itertools.count()
    async with Bridge.connect(
        url, shards=1, journal=directory, registry=Desk().registry, backlog_limit=10**6
    ) as bridge:

        async def caller() -> None:
            while True:
                receipt = await do(bridge, next(numbers), f"user:u{next(numbers) % 7}")
                os.write(1, f"{receipt.id}\n".encode())

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


if __name__ == "__main__":
    asyncio.run(publish(*sys.argv[1:]))
