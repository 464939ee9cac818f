"""A node as a process: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from bridge.client import Bridge
from tests.chatserver.client import SECRET, connected, signed_in, token
from tests.chatserver.process import Spawn, settings
from tests.servers import Server
from tests.waiting import until


async def test_it_says_where_it_serves_and_ends_cleanly(server: Server, spawn: Spawn, tmp_path: Path) -> None:
    process = spawn("--ready-file", str(tmp_path / "ready.json"), **settings(server))
    where = await process.ready()
    assert where["name"] == "node-p"
    assert where["pid"] == process.popen.pid
    await until((tmp_path / "ready.json").exists)
    assert json.loads((tmp_path / "ready.json").read_text()) == where
    assert where["health_url"].endswith("/healthz")
    async with connected(where["url"]) as client:
        await client.send(type="auth", id=1, token=token("u1"))
        assert (await client.answer(1))["type"] == "ready"
        process.popen.send_signal(signal.SIGTERM)
        await client.push("reconnect")
        assert await client.close_code() == 1012
    assert await process.ended() == 0
    assert "Traceback" not in process.errors


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"BRIDGE_REDIS_URL": ""}, ["BRIDGE_REDIS_URL", "unix://"]),
        ({"BRIDGE_REDIS_URL": "unix:///nowhere.sock"}, ["nowhere.sock"]),
        ({"BRIDGE_REDIS_URL": "http://x"}, ["redis://"]),
        ({"CHATSERVER_JWT_KEY": ""}, ["CHATSERVER_JWT_KEY", "32"]),
        ({"CHATSERVER_JWT_KEY": "short"}, ["CHATSERVER_JWT_KEY", "32"]),
        ({"CHATSERVER_JWT_KEY": "file:/nowhere/key"}, ["CHATSERVER_JWT_KEY", "/nowhere/key"]),
        ({"CHATSERVER_PORT": "high"}, ["CHATSERVER_PORT", "'high'"]),
        ({"CHATSERVER_NODE_NAME": "-a"}, ["CHATSERVER_NODE_NAME", "'-a'"]),
        ({"CHATSERVER_COLOUR": "blue"}, ["CHATSERVER_COLOUR", "CHATSERVER_PORT"]),
        ({"CHATSERVER_WORDS_FILE": "/nowhere/words"}, ["CHATSERVER_WORDS_FILE", "/nowhere/words"]),
        ({"BRIDGE_PLUGINS": "no_such_module"}, ["BRIDGE_PLUGINS", "no_such_module"]),
        ({"BRIDGE_SHARDS": "0"}, ["BRIDGE_SHARDS"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_impossible_settings_are_refused_by_name_with_the_remedy(
    server: Server, spawn: Spawn, changed: dict[str, str], told: list[str]
) -> None:
    process = spawn(**{**settings(server), **changed})
    assert await process.ended() == (1 if told == ["nowhere.sock"] else 2)
    assert "Traceback" not in process.errors
    for word in told:
        assert word in process.errors
    assert SECRET not in process.errors


async def test_a_port_that_is_taken_is_told_in_one_line(server: Server, spawn: Spawn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = spawn(**{**settings(server), "CHATSERVER_PORT": port})
        assert await process.ended() == 1
    [line] = [line for line in process.errors.splitlines() if line.startswith("chatserver:")]
    assert port in line
    assert "Traceback" not in process.errors


async def test_a_killed_node_s_clients_go_on_elsewhere_and_sanctions_hold(server: Server, spawn: Spawn) -> None:
    first = spawn(**settings(server, CHATSERVER_NODE_NAME="node-1"))
    second = spawn(**settings(server, CHATSERVER_NODE_NAME="node-2"))
    nodes = {(await p.ready())["url"]: p for p in (first, second)}
    one, two = nodes
    async with Bridge.connect(server.url, shards=4) as operator:

        async def done(type: str, subject: str, payload: dict[str, Any]) -> None:
            receipt = await operator.publish(type, subject, payload, by="op")
            outcome = await operator.outcome(receipt.id, wait=10)
            assert outcome is not None
            assert outcome.state == "done", outcome

        await done("room.open", "room:lobby", {})
        async with signed_in(one, "u1", "lobby") as client:
            said = await client.say("lobby", "before")
            place = await client.ask("join", room="lobby")
            nodes[one].popen.kill()
            await client.close_code()
        await done("member.mute", "room:lobby", {"user": "u1"})
        async with signed_in(two, "u1") as client:
            since = {"epoch": place["epoch"], "offset": said["offset"] - 1}
            joined = await client.ask("join", room="lobby", since=since)
            assert joined["recovered"] is True
            assert [m["text"] for m in joined["messages"]] == ["before"]
            assert (await client.say("lobby", "after"))["code"] == "muted"
