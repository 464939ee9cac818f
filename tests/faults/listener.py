"""A subscriber as a process: one line for each publication that ``Bridge.subscribe`` gives it, epoch and offset.

``python -m tests.faults.listener URL SHARDS CHANNEL``
"""

from __future__ import annotations

import asyncio
import sys

from bridge.client import Bridge


async def listen(url: str, shards: int, channel: str) -> None:
    async with Bridge.connect(url, shards=shards) as bridge:
        async for publication in bridge.subscribe(channel):
            sys.stdout.write(f"{publication.epoch} {publication.offset}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(listen(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
