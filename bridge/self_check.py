"""What a server must be like before anything runs on it."""

from __future__ import annotations

import asyncio

from bridge.config import BridgeSettings
from bridge.connection import Redis
from bridge.errors import Misconfigured, ServerError
from bridge.keys import Keys

SCHEMA_VERSION = "1"


async def check_server(redis: Redis, settings: BridgeSettings) -> None:
    """Refuse a server that would evict commands or forget them at a restart. Raises Misconfigured with the remedy."""
    try:
        answers = await redis.each("CONFIG", "GET", "maxmemory-policy", "appendonly", "save")
    except (ServerError, Misconfigured):
        return  # CONFIG is closed to us, as hosted servers do; their operators decide
    for answer in answers:
        _check_config(answer, settings)


def _check_config(answer: dict[bytes, bytes], settings: BridgeSettings) -> None:
    config = {name.decode(): value.decode() for name, value in answer.items()}
    policy = config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        raise Misconfigured(
            f"Redis evicts keys when it is full (maxmemory-policy {policy}), commands among them; set it to noeviction"
        )
    if config.get("appendonly") == "no" and not settings.allow_volatile:
        raise Misconfigured(
            "Redis keeps no append-only file, so a restart loses accepted commands; set appendonly yes, "
            "or BRIDGE_ALLOW_VOLATILE=1 to accept that"
        )


async def check_meta(redis: Redis, keys: Keys, settings: BridgeSettings) -> None:
    """Everybody must count the same shards: they are written once. Raises Misconfigured on another count or schema."""
    wanted = {"shards": str(settings.shards), "schema": SCHEMA_VERSION}
    found = await redis.call("HGETALL", keys.meta)
    if not found:
        await asyncio.gather(*(redis.call("HSETNX", keys.meta, name, value) for name, value in wanted.items()))
        found = await redis.call("HGETALL", keys.meta)
    for name, value in wanted.items():
        stored = found.get(name.encode(), b"").decode()
        if stored != value:
            raise Misconfigured(
                f"namespace {settings.namespace!r} was set up with {name} {stored}, not {value}; "
                f"set BRIDGE_SHARDS={stored} or use another BRIDGE_NAMESPACE"
                if name == "shards"
                else f"namespace {settings.namespace!r} has schema {stored}; this version knows {value}"
            )
