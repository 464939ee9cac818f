"""Publish: awaited, idempotent commands of one process, against a pool of connections that only appends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import orjson

from bench.measure import Row, Session
from bench.workload import PAYLOAD, SUBJECTS, entry, make_registry, pooled, redis_server
from bridge.client import Bridge

CALLERS = 500  # each awaits its publish before the next
POOL = 50
COMMANDS = 20_000  # a round
BAR = 3.0


async def bench(session: Session) -> AsyncIterator[Row]:
    async with redis_server() as server:
        commands = session.some(COMMANDS, 2000)
        ours, theirs = await session.rounds(
            "publish", partial(_publish, server.url, commands), partial(_append, server.url, commands)
        )
        yield Row("publish", f"{CALLERS} callers, against XADD on a pool of {POOL}", "per s", ours, theirs, BAR)


async def _publish(url: str, commands: int) -> float:
    registry = make_registry()
    async with Bridge.connect(url, registry=registry, backlog_limit=1_000_000) as bridge:

        async def one(number: int) -> None:
            await bridge.publish("bench.grant", f"user:u{number % SUBJECTS}", PAYLOAD, by="bench")

        rate = await _rate(commands, CALLERS, one)
        await bridge.redis.call("FLUSHALL")
    return rate


async def _append(url: str, commands: int) -> float:
    payload = orjson.dumps(PAYLOAD)
    async with pooled(url, POOL) as client:

        async def one(number: int) -> None:
            await client.execute_command("XADD", "bench:stream", "*", *entry(number, "bench.grant", payload))

        rate = await _rate(commands, CALLERS, one)
        await client.flushall()
    return rate


async def _rate(commands: int, callers: int, one: Callable[[int], Awaitable[None]]) -> float:
    """Calls per second of so many callers that share the numbers below ``commands``."""
    numbers = iter(range(commands))

    async def caller() -> None:
        for number in numbers:
            await one(number)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return commands / (time.perf_counter() - began)
