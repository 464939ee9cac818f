"""What the benches send: commands of about 250 bytes, their handlers, and servers to send them to."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel, Field
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as RedisPy

from bridge.effects import Effects
from bridge.embedded import EmbeddedServer
from bridge.envelope import Command, Envelope
from bridge.registry import Registry

SUBJECTS = 1000


class Grant(BaseModel):
    """Give a user something."""

    item: str = Field(max_length=64)
    count: int = Field(ge=1, le=1000)
    note: str = Field(max_length=200)


class Look(Grant):
    """The same, and nothing comes of it."""


class Work(BaseModel):
    """Take some time."""

    seconds: float = Field(ge=0, le=60)


PAYLOAD = {"item": "lantern", "count": 2, "note": "for the best costume at the midsummer night's masquerade"}


def payload_of(name: str) -> dict[str, object]:
    return {"seconds": 0.02} if name == "bench.work" else PAYLOAD


def make_registry() -> Registry:
    """The three types with their handlers."""
    registry = Registry()
    registry.command("bench.grant", subject="user")(Grant)
    registry.command("bench.look", subject="user")(Look)
    registry.command("bench.work", subject="user")(Work)

    @registry.handles(Grant)
    async def grant(command: Command[Grant]) -> Effects:
        wish = command.payload
        return Effects().hincrby("items", wish.item, wish.count).publish("granted", {"item": wish.item})

    @registry.handles(Look)
    async def look(command: Command[Look]) -> None:
        return None

    @registry.handles(Work)
    async def work(command: Command[Work]) -> None:
        await asyncio.sleep(command.payload.seconds)

    return registry


def entry(number: int, name: str, payload: bytes) -> list[bytes]:
    """Fields of one command as the stream has them, for one subject of many."""
    return Envelope("", "", 0, name, f"user:u{number % SUBJECTS}", payload, "bench", 1795301838720,
                    idem=f"{number:032x}").fields()  # fmt: skip


@asynccontextmanager
async def redis_server() -> AsyncIterator[EmbeddedServer]:
    """A server of our own with its append-only file on."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        server = await EmbeddedServer.start(Path(directory))
        try:
            yield server
        finally:
            await server.stop()


@asynccontextmanager
async def redis_py(url: str, **options: object) -> AsyncIterator[RedisPy]:
    """The usual client, for baselines."""
    client = RedisPy.from_url(url, **options)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def pooled(url: str, size: int) -> AsyncIterator[RedisPy]:
    """The usual client with a pool that makes callers wait, for baselines that many use at once."""
    pool = BlockingConnectionPool.from_url(url, max_connections=size, timeout=None)
    client = RedisPy(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.aclose()
