"""Fixtures: a back office on the test's server, and a node that handles the chat's commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import chatserver.handlers  # noqa: F401 - registers what the node does
from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.registry import Registry, default
from bridge.telemetry import Acquired
from tests.backoffice.service import Api, backoffice, settings
from tests.recorder import Recorder
from tests.servers import Server


@pytest.fixture
def bridge_settings(server: Server) -> BridgeSettings:
    return settings(server.url)


@pytest.fixture
async def api(bridge_settings: BridgeSettings) -> AsyncIterator[Api]:
    """A running back office, called by an admin."""
    async with backoffice(bridge_settings) as client:
        yield client


@pytest.fixture
async def node(bridge_settings: BridgeSettings, events: Recorder) -> AsyncIterator[Bridge]:
    """A node called node-a that holds every shard and handles every chat command."""
    async with serving(bridge_settings, events) as bridge:
        yield bridge


@asynccontextmanager
async def serving(
    config: BridgeSettings,
    events: Recorder,
    name: str = "node-a",
    *,
    registry: Registry = default,
    shards: int | None = None,
) -> AsyncIterator[Bridge]:
    """A node that holds ``shards`` shards, all of them without a number."""
    ready: asyncio.Future[Bridge] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with Bridge.connect(config, registry=registry, telemetry=events.telemetry) as bridge:
            ready.set_result(bridge)
            await bridge.serve(name, url="ws://127.0.0.1:9/ws")

    life = asyncio.create_task(serve(), name=name)
    try:
        bridge = await ready
        await events.wait_for_many(shards or config.shards, Acquired, node=name)
        yield bridge
    finally:
        life.cancel()
        await asyncio.wait((life,))
