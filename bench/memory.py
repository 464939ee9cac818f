"""Memory: what an idle, authenticated client in a room costs its node, and what ten thousand make of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import psutil

from bench.crowd import chat_node, open_rooms
from bench.measure import Figures, Row, Session, child
from bench.workload import redis_server
from bridge.client import Bridge

CASES = ((10_000, 100), (2000, 1))  # clients, rooms
BAR_EACH_KIB, BAR_ALL_MIB = 20, 300
_WARM_UP = 200  # clients before the first look: modules, pools and arenas are there then
_SETTLE_S = 3.0


async def bench(session: Session) -> AsyncIterator[Row]:
    for most, rooms in CASES:
        clients, what = session.some(most, 1000), "in one room" if rooms == 1 else f"in {rooms} rooms"
        totals: list[float] = []
        each, _ = await session.rounds(f"memory: {clients:,} clients {what}", partial(_fill, clients, rooms, totals))
        case = f"{clients:,} idle clients {what}"
        yield Row("memory", f"{case}, each", "KiB", each, None, BAR_EACH_KIB, more_is_better=False)
        yield Row("memory", f"{case}, the node", "MiB", Figures(tuple(totals)), None, BAR_ALL_MIB, more_is_better=False)


async def _fill(clients: int, rooms: int, totals: list[float]) -> float:
    """KiB of the node's own memory for each client; ``totals`` gets MiB resident in all."""
    async with redis_server() as server, Bridge.connect(server.url) as bridge, chat_node(server.url) as node:
        await open_rooms(bridge, rooms)
        process, url = psutil.Process(node.pid), node.told["url"]
        async with child("bench.crowd", url, str(_WARM_UP), str(rooms)) as first:
            await first.hear()
            await asyncio.sleep(_SETTLE_S)
            before = process.memory_full_info().uss
            async with child("bench.crowd", url, str(clients - _WARM_UP), str(rooms), str(_WARM_UP)) as others:
                await others.hear()
                await asyncio.sleep(_SETTLE_S)
                after = process.memory_full_info()
    totals.append(after.rss / (1 << 20))
    return float(after.uss - before) / (clients - _WARM_UP) / 1024
