"""Nodes that serve pages, and the browser client in Node.js and in Chromium."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser
from pydantic import SecretStr

from bridge.child import Child
from bridge.client import Bridge
from bridge.config import BridgeSettings
from tests.backoffice.service import REDIS_S, Api, backoffice
from tests.browser import runtimes
from tests.browser.desk import Sit, desks
from tests.browser.runtimes import JsClient, Missing
from tests.chatserver.client import SECRET, token
from tests.chatserver.conftest import SHARDS, Chat, RunningNode
from tests.proxy import Proxy
from tests.servers import IN_CI, Server

Connect = Callable[..., Awaitable[JsClient]]
in_both = pytest.mark.parametrize("runtime", ["node", "chromium"], indirect=True)
ForPages = {"origins": ("*",)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/browser/" in item.nodeid:
            item.add_marker(pytest.mark.browser)


def require(what: Callable[[], str]) -> None:
    try:
        what()
    except Missing as reason:
        if IN_CI:
            pytest.fail(str(reason))
        pytest.skip(str(reason))


@pytest.fixture
def bridge_settings() -> dict[str, Any]:
    """``BRIDGE_*`` of the nodes in this process."""
    return {}


@pytest.fixture
async def chat(server: Server, bridge_settings: dict[str, Any]) -> AsyncIterator[Chat]:
    settings = BridgeSettings(redis_url=SecretStr(server.url), shards=SHARDS, **bridge_settings)
    async with Bridge.connect(settings, timeout=REDIS_S) as bridge:
        chat = Chat(bridge, settings)
        try:
            yield chat
        finally:
            await chat.close()


@pytest.fixture
async def node(chat: Chat) -> RunningNode:
    """One node, with the room ``lobby``."""
    running = await chat.start_node(**ForPages)
    await chat.done("room.open", "room:lobby", {"title": "Lobby"})
    return running


@pytest.fixture
async def cable(node: RunningNode) -> AsyncIterator[Proxy]:
    """The network between clients and ``node``; connect to ``ws_url(cable)``."""
    cable = await Proxy.start(node.http)
    yield cable
    await cable.close()


def ws_url(cable: Proxy) -> str:
    return cable.url.replace("redis://", "ws://") + "/ws"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Chromium."""
    require(runtimes.chromium)
    async with runtimes.launched() as browser:
        yield browser


@pytest.fixture
async def api(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """A back office beside the nodes."""
    monkeypatch.setattr("backoffice.api.commands.GRACE_S", REDIS_S)  # for nodes to say whom they have told
    async with backoffice(chat.bridge.settings) as api:
        yield api


@pytest.fixture
async def sit(browser: Browser, api: Api) -> AsyncIterator[Sit]:
    """``await sit()``: an operator's tab."""
    async with desks(browser, api.url) as sit:
        yield sit


@pytest.fixture
def runtime(request: pytest.FixtureRequest) -> str:
    """Where the client runs; ``in_both`` asks for Chromium, too."""
    where = getattr(request, "param", "node")
    require(runtimes.node if where == "node" else runtimes.chromium)
    return str(where)


@pytest.fixture
async def create(runtime: str, chat: Chat) -> AsyncIterator[Connect]:
    """``await create(urls, user)``: a client that has not connected yet."""
    stack, browsers = AsyncExitStack(), list[Browser]()

    async def start() -> JsClient:
        if runtime == "node":
            return await stack.enter_async_context(runtimes.in_node())
        if not chat.nodes:
            await chat.start_node("for-files", **ForPages)
        if not browsers:
            browsers.append(await stack.enter_async_context(runtimes.launched()))
        return await stack.enter_async_context(runtimes.in_page(browsers[0], chat.nodes[0].http))

    async def create(
        urls: str | list[str], user: str = "u1", *, tokens: list[str] | str | None = None, **options: Any
    ) -> JsClient:
        client = await start()
        await client.call("create", urls, tokens or [token(user)], options)
        return client

    async with stack:
        yield create


@pytest.fixture
def connect(create: Connect) -> Connect:
    """``await connect(urls, user, "lobby")``: a client that is in these rooms."""

    async def connect(urls: str | list[str], user: str = "u1", *rooms: str, **options: Any) -> JsClient:
        client = await create(urls, user, **options)
        await client.call("connect")
        for room in rooms:
            await client.call("join", room)
        return client

    return connect


@pytest.fixture
async def processes(server: Server, tmp_path: Path, chat: Chat) -> AsyncIterator[list[Child]]:
    """Two nodes that can be killed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "BACKOFFICE_", "CHATSERVER_"))}
    root = os.fspath(Path(__file__).parents[2])
    settings = {
        "BRIDGE_REDIS_URL": server.url, "BRIDGE_SHARDS": str(SHARDS), "PYTHONPATH": root,
        "CHATSERVER_JWT_KEY": SECRET, "CHATSERVER_ORIGINS": "*", "CHATSERVER_DEMO_PAGE": "true",
    }  # fmt: skip
    nodes = [
        Child(name, "chatserver", tmp_path, {**clean, **settings, "CHATSERVER_NODE_NAME": name})
        for name in ("node-a", "node-b")
    ]
    try:
        for node in nodes:
            await node.start()
        await chat.done("room.open", "room:lobby", {"title": "Lobby"})
        yield nodes
    finally:
        for node in nodes:
            await node.stop()
