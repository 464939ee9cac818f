"""Every example, run as its first lines say, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import BaseModel
from websockets.asyncio.client import connect

from bridge.client import Bridge
from bridge.keys import Keys
from bridge.registry import Registry
from bridge.shards import DEFAULT_SHARDS, shard_of
from tests.servers import Server

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@asynccontextmanager
async def example(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """``python …`` in the project's folder, ended by Ctrl-C."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "BACKOFFICE_", "CHATSERVER_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": os.fspath(ROOT), **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode().strip()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_says_how_to_run_it(path: Path) -> None:
    assert "\nRun:" in path.read_text().split('"""')[1]


async def test_the_giveaway_gives_exactly_what_there_is_while_a_node_is_killed() -> None:
    async with example("examples/giveaway.py") as process:
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert "told:   100 done, 50 rejected" in out.decode()
    assert "stored: 100 given to 100 users" in out.decode()


async def test_a_plugin_works_from_the_command_line_to_the_user_s_state(server: Server, tmp_path: Path) -> None:
    plugin = {"BRIDGE_REDIS_URL": server.url, "BRIDGE_PLUGINS": "examples.shop_commands"}
    chat = {"CHATSERVER_PORT": "0", "CHATSERVER_JWT_KEY": "k" * 32, "CHATSERVER_NODE_NAME": "node-a"}
    chat["CHATSERVER_ORIGINS"] = "none"
    office = {"BACKOFFICE_PORT": "0", "BACKOFFICE_API_TOKENS": "shop:operator:token-of-the-shop",
              "BACKOFFICE_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/backoffice.sqlite3"}  # fmt: skip
    async with (
        example("-m", "chatserver", **plugin, **chat) as node,
        example("-m", "backoffice", **plugin, **office) as backoffice,
    ):
        await line(node)
        url = json.loads(await line(backoffice))["url"]
        async with example(
            *("-m", "bridge.cli", "publish", "item.grant", "user:42", '{"item": "sword", "count": 2}', "--wait", "15"),
            BACKOFFICE_URL=url,
            BACKOFFICE_TOKEN="token-of-the-shop",
        ) as publish:
            assert (await line(publish)).endswith('item.grant user:42: done on node-a {"granted": 2}')
    items = Keys().state(shard_of("user:42", DEFAULT_SHARDS), "user:42", "items")
    assert await server.client().hgetall(items) == {b"sword": b"2"}


async def test_what_is_said_on_one_s_own_chat_server_reaches_everybody_in_the_room(server: Server) -> None:
    async with example("examples/own_chat_server.py", BRIDGE_REDIS_URL=server.url, PORT="0") as process:
        url = await line(process)
        async with connect(url, proxy=None) as ada, connect(url, proxy=None) as bert:
            heard: list[str] = []
            async with asyncio.timeout(60):
                # Until both are subscribed, what is said is said to nobody.
                while not heard:
                    await ada.send("anybody here?")
                    try:
                        async with asyncio.timeout(0.3):
                            heard.append(json.loads(await bert.recv())["text"])
                    except TimeoutError:
                        continue
                for text in ("one", "two", "three"):
                    await ada.send(text)
                while heard[-1] != "three":
                    heard.append(json.loads(await bert.recv())["text"])
            assert heard[-3:] == ["one", "two", "three"]
            assert set(heard[:-3]) == {"anybody here?"}


async def test_a_group_of_one_s_own_reads_every_ended_command_once(server: Server) -> None:
    registry = Registry()

    @registry.command("thing.do", subject="thing")
    class Do(BaseModel):
        pass

    @registry.handles(Do)
    async def do(command: object) -> None:
        return None

    async with Bridge.connect(server.url, registry=registry) as bridge:
        serving = asyncio.create_task(bridge.serve("node-a"))
        try:
            first = await bridge.publish("thing.do", "thing:1", {}, by="test")
            async with example("examples/settled_consumer.py", BRIDGE_REDIS_URL=server.url) as consumer:
                assert await line(consumer) == f"{first.id} thing.do thing:1 done (the 1. such)"
                second = await bridge.publish("thing.do", "thing:2", {}, by="test")
                assert await line(consumer) == f"{second.id} thing.do thing:2 done (the 2. such)"
            third = await bridge.publish("thing.do", "thing:3", {}, by="test")
            async with example("examples/settled_consumer.py", BRIDGE_REDIS_URL=server.url) as consumer:
                assert (await line(consumer)).startswith(f"{third.id} "), "the group remembers where it was"
        finally:
            serving.cancel()
            await asyncio.wait((serving,))
