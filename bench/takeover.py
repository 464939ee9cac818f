"""Takeover: a node is killed with commands waiting on it; how long until another has done the last of them.

As ``python -m bench.takeover NAME URL`` it is a node.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from functools import partial

from bench.measure import Row, Session, child, heard, say
from bench.workload import make_registry, payload_of, redis_py, redis_server
from bridge.client import Bridge
from bridge.telemetry import Started, Telemetry

COMMANDS = 200  # of 20 ms each
BAR = 0.8  # a killed process is missed by its subscription, long before its lease runs out


async def bench(session: Session) -> AsyncIterator[Row]:
    async with redis_server() as server:
        twice: list[int] = []
        ours, _ = await session.rounds("takeover", partial(_kill_one, server.url, twice))
        case = f"{COMMANDS} commands of 20 ms, SIGKILL to the last one's end"
        notes = {"handled again by the survivor": max(twice)}
        yield Row("takeover", case, "s", ours, None, BAR, more_is_better=False, notes=notes)


async def _kill_one(url: str, twice: list[int]) -> float:
    async with redis_py(url) as client:
        await client.flushall()
    async with (
        child("bench.takeover", "first", url) as first,
        child("bench.takeover", "second", url) as second,
        Bridge.connect(url, registry=make_registry()) as bridge,
    ):
        await asyncio.gather(first.hear(), second.hear())
        await _both_hold_their_share(bridge)
        calls = (
            bridge.publish("bench.work", f"user:u{number}", payload_of("bench.work"), by="bench")
            for number in range(COMMANDS)
        )
        await asyncio.gather(*calls)
        first.process.kill()
        killed = time.perf_counter()
        while any(info.length for info in await bridge.shard_infos()):
            await asyncio.sleep(0.005)
        took = time.perf_counter() - killed
        second.tell("stop")
        twice.append(int(await second.hear()))
    return took


async def _both_hold_their_share(bridge: Bridge) -> None:
    while True:
        holders = [info.holder for info in await bridge.shard_infos()]
        if None not in holders and len(set(holders)) == 2:
            return
        await asyncio.sleep(0.05)


async def _node(name: str, url: str) -> None:
    starts: dict[str, int] = {}
    telemetry = Telemetry()

    def count(event: object) -> None:
        if isinstance(event, Started):
            starts[event.id] = starts.get(event.id, 0) + 1

    telemetry.listen(count, inline=True)
    async with Bridge.connect(url, registry=make_registry(), telemetry=telemetry) as bridge:
        node = asyncio.create_task(bridge.serve(name))
        say("ready")
        await heard()
        node.cancel()
        await asyncio.gather(node, return_exceptions=True)
    say(sum(count - 1 for count in starts.values()))


if __name__ == "__main__":
    asyncio.run(_node(sys.argv[1], sys.argv[2]))
