"""A publisher that does not slow down: ``python -m tests.faults.flood URL SECONDS PER_SECOND``.

Writes one line of JSON a second: what was accepted, what was refused, and its own memory.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import orjson

from bridge.client import Bridge
from bridge.errors import BridgeError
from tests.faults.ledger import registry
from tests.faults.pace import elapsed

SLICES = 20  # of a second


async def publish(bridge: Bridge, n: int, counts: Counter[str]) -> None:
    try:
        await bridge.publish("fault.linger", f"room:f{n % 50}", {"n": n, "seconds": 0.05}, by="flood")
        counts["accepted"] += 1
    except BridgeError as error:
        counts[type(error).__name__] += 1


async def flood(url: str, seconds: int, per_s: int) -> None:
    async with Bridge.connect(url, registry=registry, shards=2, backlog_limit=200) as bridge:
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        for second in range(seconds):
            counts: Counter[str] = Counter()
            async with asyncio.TaskGroup() as calls:
                for part in range(SLICES):
                    for _ in range(per_s // SLICES):
                        calls.create_task(publish(bridge, sent, counts))
                        sent += 1
                    await elapsed(max(0.0, began + second + (part + 1) / SLICES - loop.time()))
            accepted, refused = counts["accepted"], counts["Overloaded"]
            other = counts.total() - accepted - refused
            rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            line = {"accepted": accepted, "Overloaded": refused, "other": other, "rss": rss}
            os.write(1, orjson.dumps(line) + b"\n")


if __name__ == "__main__":
    asyncio.run(flood(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
