"""``chatbridge ws-probe`` and ``load``, as processes, against real nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chat.relay import relayed
from tests.chatserver.client import SECRET, token
from tests.chatserver.conftest import Chat, RunningNode, chat, node, two_nodes
from tests.test_cli import run

__all__ = ["chat", "node", "two_nodes"]
KEY = ("--jwt-key", SECRET)


async def test_a_probe_tells_each_step_and_how_long_it_took(node: RunningNode) -> None:
    result = await run("ws-probe", node.url, *KEY, "--user", "watch", "--room", "lobby", "--say", "hello", "--json")
    assert result.status == 0
    found = result.json
    assert (found["ok"], found["node"], found["user"], found["error"]) == (True, "node-a", "watch", None)
    assert [step["step"] for step in found["steps"]] == ["connect", "hello", "auth", "ping", "join", "say", "delivery"]
    assert all(step["ok"] and step["ms"] >= 0 for step in found["steps"])
    assert found["ping_ms"]["min"] <= found["ping_ms"]["median"] <= found["ping_ms"]["max"]
    assert abs(found["clock_ms"]) < 10_000

    shown = await run("ws-probe", node.url, "--token", token("u1"))
    assert shown.status == 0
    assert [row[0] for row in shown.rows[:4]] == ["connect", "hello", "auth", "ping"]
    assert ["node", "node-a"] in shown.rows


async def test_a_probe_fails_at_the_step_that_does_not_work(chat: Chat, node: RunningNode) -> None:
    await chat.done("user.mute", "user:muted")
    for arguments, step, code in (
        ((node.url, "--token", "nonsense"), "auth", 4501),
        ((node.url, *KEY, "--room", "nowhere"), "join", "room_not_found"),
        ((node.url, *KEY, "--user", "muted", "--room", "lobby", "--say", "x"), "say", "muted"),
        (("ws://127.0.0.1:9/ws", *KEY), "connect", "unreachable"),
    ):
        result = await run("ws-probe", *arguments, "--json")
        assert result.status == 1
        assert result.json["error"]["code"] == code
        assert result.json["steps"][-1] | {"ms": 0, "detail": ""} == {"step": step, "ok": False, "ms": 0, "detail": ""}


async def test_load_counts_every_delivery(two_nodes: tuple[RunningNode, RunningNode], chat: Chat) -> None:
    await chat.done("room.open", "room:trade")
    urls = [node.url for node in two_nodes]
    order = ("load", *urls, *KEY, "--clients", "10", "--rate", "50", "--seconds", "1")
    result = await run(*order, "--room", "lobby", "--room", "trade", "--json")
    assert result.status == 0, result.out
    report = result.json
    assert (report["joined"], report["said"], report["deliveries"]) == (10, 50, 250)
    assert (report["missing"], report["duplicates"], report["gaps"], report["refused"]) == (0, 0, 0, {})
    for times in (report["say_ms"], report["delivery_ms"]):
        assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
    shown = await run(*order, "--room", "lobby")
    assert shown.status == 0
    assert ["joined", "10", "of", "10,", "in", "1", "rooms"] in shown.rows


async def test_load_fails_when_something_did_not_arrive(node: RunningNode) -> None:
    async with relayed(node.url) as relay:
        relay.lose = lambda frame: frame["type"] == "message" and relay.frames.count(frame) == 1
        order = ("load", relay.url, *KEY, "--clients", "2", "--rate", "10", "--seconds", "0.5", "--room", "lobby")
        result = await run(*order, "--settle", "1", "--json")
    report = result.json
    assert result.status == 1
    assert report["said"] == 5
    assert report["missing"] == 10 - report["deliveries"] > 0


async def test_load_tells_who_was_turned_away_and_what_was_refused(chat: Chat, node: RunningNode) -> None:
    await chat.done("user.ban", "user:load-1")
    await chat.done("user.mute", "user:load-0")
    order = ("load", node.url, *KEY, "--clients", "3", "--rate", "10", "--seconds", "0.6", "--room", "lobby")
    result = await run(*order, "--json")
    assert result.status == 1
    report = result.json
    assert (report["joined"], report["turned_away"]) == (2, {"4504": 1})
    assert report["refused"] == {"muted": 3}
    assert (report["said"], report["missing"]) == (3, 0)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("ws-probe",), "give its address, or the --ready-file"),
        (("ws-probe", "ws://127.0.0.1:9/ws"), "--jwt-key"),
        (("ws-probe", "ws://127.0.0.1:9/ws", "--user", "u", "--jwt-key", '{"keys": []}'), "give --token"),
        (("ws-probe", "http://127.0.0.1:9", "--token", "t"), "ws://HOST:PORT/ws"),
        (("ws-probe", "ws://127.0.0.1:9/ws", "--token", "t", "--say", "x"), "--room"),
        (("ws-probe", "--ready-file", "/nowhere"), "cannot read /nowhere"),
        (("load", "ws://127.0.0.1:9/ws"), "--room"),
        (("load", "--clients", "1"), "greater than or equal to 2"),
    ],
)
async def test_misuse_is_one_line_that_says_what_to_do(arguments: tuple[str, ...], remedy: str) -> None:
    result = await run(*arguments, COLUMNS="200")
    assert result.status == 2, result.err
    assert (result.out, result.err.count("\n")) == ("", 1)
    assert remedy in result.err


async def test_a_ready_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text(json.dumps({"nodes": []}))
    result = await run("ws-probe", "--ready-file", str(path))
    assert (result.status, "is no ready file of a demo" in result.err) == (2, True)
