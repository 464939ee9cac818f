"""An operator reads on which nodes a command touched how many sessions, also while a node does not answer."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from typing import Any

import pytest

from bridge.shards import shard_of
from tests.figures import Figures
from tests.journeys.installation import NODES, Installation
from tests.waiting import until

pytestmark = pytest.mark.timeout(180)
SHOWN_S = 1.0  # on a quiet machine


async def held_elsewhere(chat: Installation, node: str, shards: int) -> str:
    """A user whose shard another node holds, so that the command itself need not wait for a takeover."""

    async def settled_down() -> Any:
        found = await chat.read("/shards")
        holders = {shard["shard"]: shard["holder"] for shard in found["items"]}
        return holders if set(holders.values()) == set(NODES) else None

    holders = await until(settled_down)
    return next(user for user in map("u{}".format, range(1000)) if holders[shard_of(f"user:{user}", shards)] != node)


async def told(chat: Installation, command: dict[str, Any], *nodes: int, missing: Sequence[str] = ()) -> None:
    """Until the nodes that are there have said these numbers of sessions, and only the others are missing."""
    wanted = dict(zip([node for node in NODES if node not in missing], nodes, strict=True))

    async def said() -> bool:
        shown = await chat.read(f"/commands/{command['id']}")
        receipts = {receipt["node"]: receipt["sessions"] for receipt in shown["receipts"]}
        assert set(shown["missing_nodes"]) >= set(missing), shown
        return receipts == wanted and shown["missing_nodes"] == list(missing)

    await until(said, what=f"{wanted} from the nodes")


async def test_a_kick_is_answered_by_every_node_and_a_stopped_one_is_named_until_it_answers(
    chat: Installation, settings: dict[str, Any], figures: Figures, full: bool
) -> None:
    user = await held_elsewhere(chat, "node-b", settings["shards"])
    clients = [await chat.client(node, user, "lobby") for node in ("node-a", "node-b", "node-b")]
    await told(chat, await chat.done("user.kick", f"user:{user}"), 1, 2, 0)
    assert await asyncio.gather(*(client.close_code() for client in clients)) == [4503] * 3

    clients = [await chat.client(node, user, "lobby") for node in ("node-a", "node-b", "node-b")]
    chat.nodes["node-b"].send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        kicked = await chat.done("user.kick", f"user:{user}")
        took = time.monotonic() - began
        await told(chat, kicked, 1, 0, missing=["node-b"])
        assert took < (SHOWN_S if full else 10)
    finally:
        woke = time.monotonic()
        chat.nodes["node-b"].send(signal.SIGCONT)
    assert await asyncio.gather(*(client.close_code() for client in clients)) == [4503] * 3
    await told(chat, kicked, 1, 2, 0)
    figures.report(
        "kick with a stopped node", done_s=round(took, 3), receipt_after_waking_s=round(time.monotonic() - woke, 3)
    )


async def test_a_killed_node_is_named_and_nobody_waits_for_it(chat: Installation, settings: dict[str, Any]) -> None:
    user = await held_elsewhere(chat, "node-b", settings["shards"])
    await chat.nodes["node-b"].stop(signal.SIGKILL)

    async def counts_as_dead() -> bool:
        items = (await chat.read("/nodes"))["items"]
        return [item["state"] for item in items if item["name"] == "node-b"] == ["dead"]

    await until(counts_as_dead)
    await chat.client("node-a", user, "lobby")
    await told(chat, await chat.done("user.kick", f"user:{user}"), 1, 0, missing=["node-b"])
