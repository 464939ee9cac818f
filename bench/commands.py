"""Handle and settle: one node drains a backlog, against the bare minimum of reading and acknowledging."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
from redis.asyncio import Redis as RedisPy

from bench.measure import Row, Session
from bench.workload import PAYLOAD, entry, make_registry, redis_py, redis_server
from bridge.client import Bridge
from bridge.keys import Keys

COUNTS = (1, 10, 50, 100)
TYPES = {"bench.grant": "one effect, one broadcast", "bench.look": "no effects"}
BARS = {("bench.grant", 100): 1.0, ("bench.look", 100): 1.5}
COMMANDS = 10_000  # a round at 100 a read
_STREAM, _GROUP, _ME = "bench:stream", "bench", "me"


async def bench(session: Session) -> AsyncIterator[Row]:
    async with redis_server() as server, redis_py(server.url) as client:
        for name, what in TYPES.items():
            for count in COUNTS:
                commands = session.some(COMMANDS * min(1, count / 20), 200)
                case = f"COUNT {count}, {what}"
                cost = Cost(client)
                ours, theirs = await session.rounds(
                    f"commands: {case}",
                    partial(_drain, server.url, client, cost, name, count, commands, 1),
                    partial(_acknowledge, client, name, count, commands),
                )
                yield Row("commands", case, "per s", ours, theirs, BARS.get((name, count)), notes=cost.notes())
        for name, what in TYPES.items():
            case = f"COUNT 100, {what}, over 64 shards"
            cost = Cost(client)
            ours, theirs = await session.rounds(
                f"commands: {case}",
                partial(_drain, server.url, client, cost, name, 100, session.some(COMMANDS), 64),
                partial(_acknowledge, client, name, 100, session.some(COMMANDS)),
            )
            yield Row("commands", case, "per s", ours, theirs, notes=cost.notes())


class Cost:
    """Where the time of the candidate goes: CPU of this process and of the server, a command."""

    def __init__(self, client: RedisPy) -> None:
        self._client = client
        self._ours = self._servers = 0.0
        self._commands = 0

    @asynccontextmanager
    async def of(self, commands: int) -> AsyncIterator[None]:
        server, ours = await self._server_s(), time.process_time()
        yield
        self._ours += time.process_time() - ours
        self._servers += await self._server_s() - server
        self._commands += commands

    def notes(self) -> dict[str, float]:
        return {
            "client_us": round(self._ours / self._commands * 1e6, 1),
            "server_us": round(self._servers / self._commands * 1e6, 1),
        }

    async def _server_s(self) -> float:
        cpu = await self._client.info("cpu")
        return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


async def _fill(client: RedisPy, stream_of: Any, commands: int, name: str) -> None:
    """Put a backlog on its streams."""
    payload = orjson.dumps(PAYLOAD)
    for first in range(0, commands, 1000):
        async with client.pipeline(transaction=False) as pipe:
            for number in range(first, min(first + 1000, commands)):
                fields = entry(number, name, payload)
                pipe.execute_command("XADD", stream_of(fields[5].decode()), "*", *fields)
            await pipe.execute()


async def _drain(url: str, client: RedisPy, cost: Cost, name: str, count: int, commands: int, shards: int) -> float:
    """Commands per second of a node, from the first one's start to the last one's settle."""
    await client.flushall()
    finished = asyncio.Event()
    tally = _Tally(commands, finished)
    async with Bridge.connect(url, registry=tally.registry(), shards=shards, max_in_flight=count) as bridge:
        keys = Keys()
        await _fill(client, lambda subject: keys.commands(bridge.shard_of(subject)), commands, name)
        async with cost.of(commands):
            node = asyncio.create_task(bridge.serve("bench"))
            await finished.wait()
            while any(await asyncio.gather(*(bridge.redis.call("XLEN", keys.commands(s)) for s in range(shards)))):
                await asyncio.sleep(0)
            took = time.perf_counter() - tally.began
        node.cancel()
        await asyncio.gather(node, return_exceptions=True)
    return commands / took


class _Tally:
    """Counts what the handlers are asked to do."""

    def __init__(self, commands: int, finished: asyncio.Event) -> None:
        self.began = 0.0
        self._left, self._finished = commands, finished

    def registry(self) -> Any:
        registry = make_registry()
        for name in TYPES:
            handler = registry.handler(name)
            assert handler is not None
            registry._handlers[name] = self._counted(handler)
        return registry

    def _counted(self, handler: Any) -> Any:
        async def counted(command: Any) -> Any:
            if not self.began:
                self.began = time.perf_counter()
            self._left -= 1
            if not self._left:
                self._finished.set()
            return await handler(command)

        return counted


async def _acknowledge(client: RedisPy, name: str, count: int, commands: int) -> float:
    """Messages per second of a loop that reads and acknowledges and does nothing else."""
    await client.flushall()
    await client.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)
    await _fill(client, lambda _: _STREAM, commands, name)
    began, left = time.perf_counter(), commands
    while left:
        [(_, entries)] = await client.xreadgroup(_GROUP, _ME, {_STREAM: ">"}, count=count)
        async with client.pipeline(transaction=False) as pipe:
            for id, _ in entries:
                pipe.xack(_STREAM, _GROUP, id)
            await pipe.execute()
        left -= len(entries)
    return commands / (time.perf_counter() - began)
