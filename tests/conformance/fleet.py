"""Bridges and nodes in this process, and a desk whose handler a test sets."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

from pydantic import BaseModel, SecretStr

from bridge.client import Bridge
from bridge.clock import ServerClock
from bridge.config import BridgeSettings
from bridge.effects import Effects
from bridge.envelope import Command, StateReader
from bridge.handling import Handling, hold
from bridge.publisher import Receipt
from bridge.registry import Registry
from bridge.shard_stream import Ended, Lease, RawEntry, ShardStream
from bridge.telemetry import Acquired, Telemetry
from bridge.verdict import Done
from tests.recorder import Recorder
from tests.servers import Server

ROOM = "room:lobby"
PERMANENT = re.compile(
    r"chat:\{\d+\}:(commands|settled|epoch|incarnation|history|dead|requeued|channel:.*|room:.*|user:.*)"
    r"|chat:\{nodes\}:(live|info|draining)|chat:\{meta\}"
)
PATIENT_S = 5.0  # for an answer: a busy machine may stall for longer than services wait
ABRUPT_S = 0.3  # a node whose server is gone, or whose handler hangs, has no more time at a test's end


class Do(BaseModel):
    """What the desk is asked to do."""

    n: int = 1
    data: Any = None


Handle = Callable[[Command[Do]], Awaitable[Any]]


async def note(command: Command[Do]) -> Effects:
    """The usual handler: leave a line in the subject's log, so that order and number of effects can be read."""
    return Effects().xadd("log", {"n": command.payload.n, "id": command.id}, 100_000).result(n=command.payload.n)


class Desk:
    """A registry of its own with one type, ``desk.do`` for users, handled by whatever ``handle`` is at the time."""

    def __init__(self) -> None:
        self.handle: Handle = note
        self.registry = Registry()
        self.registry.command("desk.do", subject="user")(Do)
        self.registry.handles(Do)(self._handle)

    async def _handle(self, command: Command[Do]) -> Any:
        return await self.handle(command)


class Gate:
    """A handler that stops at a gate: ``entered`` tells who is inside, ``open`` lets them through."""

    def __init__(self, then: Handle = note) -> None:
        self.entered: list[int] = []
        self.most = 0  # inside at once
        self._inside = 0
        self._open = asyncio.Event()
        self._then = then

    def open(self) -> None:
        self._open.set()

    async def __call__(self, command: Command[Do]) -> Any:
        self.entered.append(command.payload.n)
        self._inside += 1
        self.most = max(self.most, self._inside)
        try:
            await self._open.wait()
        finally:
            self._inside -= 1
        return await self._then(command)


class Fleet:
    """Bridges to one server, with one shard and a short lease unless a test says otherwise."""

    def __init__(self, server: Server, events: Recorder, desk: Desk) -> None:
        self.server, self.events, self.desk = server, events, desk
        self.raw: Any = server.client()  # redis-py, whose types say little
        self.by_hand = False  # a test that reads entries itself may leave them pending
        self._stack = contextlib.AsyncExitStack()
        self._serving: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=ABRUPT_S)
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._stack.aclose()

    async def bridge(self, url: str | None = None, **settings: Any) -> Bridge:
        """A connected bridge; closed after the test."""
        options = {"shards": 1, "lease_seconds": 1.0, "backoff_seconds": 0.01, "timeout": PATIENT_S, **settings}
        options.setdefault("registry", self.desk.registry)
        options.setdefault("telemetry", self.events.telemetry)
        return await self._stack.enter_async_context(Bridge.connect(url or self.server.url, **options))

    def serve(self, bridge: Bridge, name: str | None = "node-a") -> asyncio.Task[None]:
        """Let a bridge join as a node, None: under a name of its own; cancelled after the test."""
        task = asyncio.create_task(bridge.serve(name), name=name)
        self._serving.append(task)
        return task

    async def node(self, name: str = "node-a", *, url: str | None = None, **settings: Any) -> Bridge:
        """A bridge that serves as a node and holds a shard already."""
        bridge = await self.bridge(url, **settings)
        self.serve(bridge, name)
        await self.events.wait_for(Acquired, node=name, timeout=30)
        return bridge

    async def leave(self, name: str) -> None:
        """Let a node drain and leave, as SIGTERM does."""
        for task in self._serving:
            if task.get_name() == name:
                task.cancel()
                await asyncio.wait((task,))

    async def put(self, *fields: object, shard: int = 0) -> str:
        """XADD by hand, as a stranger would: names and values in turn. The entry's id."""
        id: bytes = await self.raw.execute_command("XADD", f"chat:{{{shard}}}:commands", "*", *fields)
        return id.decode()

    async def log(self, subject: str = "user:u1", shard: int = 0) -> list[int]:
        """What the usual handler noted, in the order of its effects."""
        rows = await self.raw.xrange(f"chat:{{{shard}}}:{subject}:log")
        return [int(fields[b"n"]) for _, fields in rows]

    async def pending(self, shard: int = 0) -> int:
        summary = await self.raw.xpending(f"chat:{{{shard}}}:commands", "chatservers")
        return int(summary["pending"])

    async def leftovers(self) -> list[str]:
        """Keys that would stay for good and should not, and streams with pending entries."""
        left = []
        async for key in self.raw.scan_iter(count=1000):
            name = key.decode()
            if not PERMANENT.fullmatch(name) and await self.raw.pttl(name) == -1:
                left += [] if self.by_hand and name.endswith(":starts") else [name]
            if name.endswith(":commands") and not self.by_hand and await self.raw.xinfo_groups(name):
                summary = await self.raw.xpending(name, "chatservers")
                if summary["pending"]:
                    left.append(f"{summary['pending']} pending on {name}")
        return left


async def do(bridge: Bridge, n: int = 1, subject: str = "user:u1", **options: Any) -> Receipt:
    """Publish one ``desk.do``."""
    return await bridge.publish("desk.do", subject, {"n": n}, by="tester", **options)


async def do_many(bridge: Bridge, numbers: Sequence[int], subject: str = "user:u1") -> list[Receipt]:
    """Several, in this order."""
    return await asyncio.gather(*(do(bridge, n, subject) for n in numbers))


async def _unread(*_: str) -> Any:
    raise AssertionError("what was handled already reads nothing")


_HANDLING = Handling(
    "node-x",
    Registry(),
    StateReader(_unread, _unread),
    ServerClock(),
    BridgeSettings(redis_url=SecretStr("unix://nowhere")),
    Telemetry(),
)


def ended(raw: RawEntry, effects: Effects | None = None, *, counted: bool = False) -> Ended:
    """An entry of shard 0 that was handled, as a worker hands it to settle."""
    held = hold(0, raw)
    held.counted = counted
    return _HANDLING.ended(held, Done(effects or Effects()))


async def take(stream: ShardStream, owner: str = "node-x/boot") -> Lease:
    """The shard's lease, which nobody else holds."""
    lease = await stream.acquire(owner)
    assert isinstance(lease, Lease)
    return lease


async def vanish(stream: ShardStream, lease: Lease, *started: str, presumed: int = 1) -> None:
    """Die as a process does: what was started stays so, and the lease runs out, here at once."""
    for entry in started:
        await stream.start(lease, entry, starts=presumed + 1)
    await stream.release(lease)
