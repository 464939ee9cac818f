"""Latency: from publish to the handler's start in another process, against a bare loop of blocking reads.

As ``python -m bench.latency ours|theirs URL COMMANDS`` it is the process that receives.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from pydantic import BaseModel
from redis.asyncio import Redis as RedisPy

from bench.measure import Row, Session, child, percentile, say
from bench.workload import SUBJECTS, pooled, redis_py, redis_server
from bridge.client import Bridge
from bridge.envelope import Command
from bridge.registry import Registry
from bridge.telemetry import Acquired, Telemetry

RATES = (1000, 2000)  # a second
SECONDS = 4.0  # a round
BAR = 1.3  # of the 99th percentiles
SHARDS = 64
POOL = 50
_STREAM, _GROUP = "bench:stream", "bench"


class Timed(BaseModel):
    """When it was sent, on the clock that all processes of a machine share."""

    sent: float
    note: str = "x" * 150


async def bench(session: Session) -> AsyncIterator[Row]:
    async with redis_server() as server:
        for rate in RATES:
            commands = session.some(rate * SECONDS, rate // 4)
            ours, theirs = await session.rounds(
                f"latency at {rate} a second",
                partial(_measure, "ours", server.url, rate, commands),
                partial(_measure, "theirs", server.url, rate, commands),
            )
            yield Row("latency", f"p99 at {rate:,}/s", "ms", ours, theirs, BAR, more_is_better=False)


async def _measure(side: str, url: str, rate: int, commands: int) -> float:
    async with pooled(url, POOL) as client:
        await client.flushall()
        if side == "theirs":
            await client.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)
        async with child("bench.latency", side, url, str(commands)) as receiver:
            await receiver.hear()  # it is ready
            if side == "ours":
                async with Bridge.connect(url, registry=_registry(None)) as bridge:
                    await _send(rate, commands, partial(_publish, bridge))
            else:
                await _send(rate, commands, partial(_append, client))
            return float(await receiver.hear())


async def _send(rate: int, commands: int, send: Callable[[int], Awaitable[object]]) -> None:
    """At a steady rate, whether or not earlier ones were answered."""
    async with asyncio.TaskGroup() as group:
        began = time.perf_counter()
        for number in range(commands):
            ahead = began + number / rate - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            group.create_task(_ignore(send(number)))


async def _ignore(call: Awaitable[object]) -> None:
    await call


async def _publish(bridge: Bridge, number: int) -> None:
    await bridge.publish("bench.timed", f"user:u{number % SUBJECTS}", {"sent": time.monotonic()}, by="bench")


async def _append(client: RedisPy, number: int) -> None:
    body = Timed(sent=time.monotonic()).model_dump_json()
    await client.execute_command("XADD", _STREAM, "*", "subject", f"user:u{number % SUBJECTS}", "payload", body)


def _registry(heard: Callable[[float], None] | None) -> Registry:
    registry = Registry()
    registry.command("bench.timed", subject="user")(Timed)

    @registry.handles(Timed)
    async def timed(command: Command[Timed]) -> None:
        if heard is not None:
            heard(time.monotonic() - command.payload.sent)

    return registry


async def _receive(side: str, url: str, commands: int) -> None:
    latencies: list[float] = []
    done = asyncio.Event()

    def heard(latency: float) -> None:
        latencies.append(latency)
        if len(latencies) == commands:
            done.set()

    await (_serve(url, heard, done) if side == "ours" else _loop(url, heard, done))
    say(percentile(latencies, 0.99) * 1000)


async def _serve(url: str, heard: Callable[[float], None], done: asyncio.Event) -> None:
    telemetry, held, holds_all = Telemetry(), set[int](), asyncio.Event()

    def listen(event: object) -> None:
        if isinstance(event, Acquired):
            held.add(event.shard)
            if len(held) == SHARDS:
                holds_all.set()

    stop = telemetry.listen(listen, inline=True)
    async with Bridge.connect(url, registry=_registry(heard), telemetry=telemetry) as bridge:
        node = asyncio.create_task(bridge.serve("bench"))
        await holds_all.wait()
        stop()
        say("ready")
        await done.wait()
        node.cancel()
        await asyncio.gather(node, return_exceptions=True)


async def _loop(url: str, heard: Callable[[float], None], done: asyncio.Event) -> None:
    async with redis_py(url) as client:
        say("ready")
        with contextlib.suppress(asyncio.CancelledError):
            while not done.is_set():
                answer = await client.xreadgroup(_GROUP, "me", {_STREAM: ">"}, count=100, block=1000)
                for _, entries in answer or ():
                    for _, fields in entries:
                        heard(time.monotonic() - Timed.model_validate_json(fields[b"payload"]).sent)
                    await client.xack(_STREAM, _GROUP, *(id for id, _ in entries))


if __name__ == "__main__":
    asyncio.run(_receive(sys.argv[1], sys.argv[2], int(sys.argv[3])))
