"""Fixtures: a back office on the test's server, and a node that handles the chat's commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import chatserver.handlers  # noqa: F401 - registers what the node does
from backoffice.app import make_app
from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.registry import Registry, default
from bridge.telemetry import Acquired
from tests.backoffice.service import REDIS_S, Api, backoffice, settings
from tests.postgres import Postgres
from tests.recorder import Recorder
from tests.servers import IN_CI, Missing, Server


@pytest.fixture
def bridge_settings(server: Server) -> BridgeSettings:
    return settings(server.url)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Raises a failure in CI, and skips elsewhere, where there is none."""
    try:
        server = Postgres()
    except Missing as reason:
        if IN_CI:
            pytest.fail(str(reason))
        pytest.skip(str(reason))
    yield server
    server.destroy()


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Of an empty database: of a file, or on PostgreSQL where a test's ``database`` says so."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/backoffice.sqlite3"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
async def api(bridge_settings: BridgeSettings, request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """A running back office, called by an admin."""
    url = request.getfixturevalue("database_url") if "database_url" in request.fixturenames else None
    async with backoffice(bridge_settings, database_url=url) as client:
        yield client


@pytest.fixture
async def node(bridge_settings: BridgeSettings, events: Recorder) -> AsyncIterator[Bridge]:
    """A node called node-a that holds every shard and handles every chat command."""
    async with serving(bridge_settings, events) as bridge:
        yield bridge


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[web.Application]:
    """Every back office that this test starts, from inside."""
    made: list[web.Application] = []

    def make(*arguments: Any, **options: Any) -> web.Application:
        made.append(make_app(*arguments, **options))
        return made[-1]

    monkeypatch.setattr("tests.backoffice.service.make_app", make)
    return made


both_databases = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


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
        async with Bridge.connect(config, registry=registry, telemetry=events.telemetry, timeout=REDIS_S) as bridge:
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
