"""An operator reads on which nodes a command touched how many sessions, also while a node does not answer."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from bridge.shards import shard_of
from tests.figures import Figures
from tests.journeys.installation import NODES, Installation
from tests.waiting import until

pytestmark = pytest.mark.timeout(180)
SHOWN_S = 1.0  # from the command's end


async def held_elsewhere(chat: Installation, node: str, shards: int) -> str:
    """A user whose shard another node holds, so that the command itself need not wait for a takeover."""

    async def settled_down() -> Any:
        found = await chat.api.call("GET", "/shards")
        holders = {shard["shard"]: shard["holder"] for shard in found["items"]}
        return holders if set(holders.values()) == set(NODES) else None

    holders = await until(settled_down)
    return next(user for user in map("u{}".format, range(1000)) if holders[shard_of(f"user:{user}", shards)] != node)


def said(command: dict[str, Any]) -> dict[str, int]:
    return {receipt["node"]: receipt["sessions"] for receipt in command["receipts"]}


async def test_a_kick_is_answered_by_every_node_and_a_stopped_one_is_named_until_it_answers(
    chat: Installation, settings: dict[str, Any], figures: Figures
) -> None:
    user = await held_elsewhere(chat, "node-b", settings["shards"])
    clients = [await chat.client(node, user, "lobby") for node in ("node-a", "node-b", "node-b")]
    kicked = await chat.done("user.kick", f"user:{user}")
    assert (said(kicked), kicked["missing_nodes"]) == (dict(zip(NODES, (1, 2, 0), strict=True)), [])
    assert await asyncio.gather(*(client.close_code() for client in clients)) == [4503] * 3

    clients = [await chat.client(node, user, "lobby") for node in ("node-a", "node-b", "node-b")]
    chat.nodes["node-b"].send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        kicked = await chat.done("user.kick", f"user:{user}")
        took = time.monotonic() - began
        path = f"/commands/{kicked['id']}"
        shown = await chat.api.call("GET", path)
        assert (said(shown), shown["missing_nodes"]) == ({"node-a": 1, "node-c": 0}, ["node-b"])
        assert took < SHOWN_S
    finally:
        woke = time.monotonic()
        chat.nodes["node-b"].send(signal.SIGCONT)
    assert await asyncio.gather(*(client.close_code() for client in clients)) == [4503] * 3

    async def answered() -> Any:
        shown = await chat.api.call("GET", path)
        return shown if not shown["missing_nodes"] else None

    shown = await until(answered)
    assert said(shown) == dict(zip(NODES, (1, 2, 0), strict=True))
    figures.report(
        "kick with a stopped node", done_s=round(took, 3), receipt_after_waking_s=round(time.monotonic() - woke, 3)
    )


async def test_a_killed_node_is_named_and_nobody_waits_for_it(chat: Installation, settings: dict[str, Any]) -> None:
    user = await held_elsewhere(chat, "node-b", settings["shards"])
    await chat.nodes["node-b"].stop(signal.SIGKILL)

    async def counts_as_dead() -> bool:
        items = (await chat.api.call("GET", "/nodes"))["items"]
        return [item["state"] for item in items if item["name"] == "node-b"] == ["dead"]

    await until(counts_as_dead)
    await chat.client("node-a", user, "lobby")
    kicked = await chat.done("user.kick", f"user:{user}")
    assert (said(kicked), kicked["missing_nodes"]) == ({"node-a": 1, "node-c": 0}, ["node-b"])
