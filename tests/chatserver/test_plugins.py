"""Commands of plugins on the chat's own rooms: what they publish is shown, and never taken for ours."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from bridge.channels import Channel
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.registry import default
from tests.chatserver.conftest import Chat, RunningNode


@pytest.fixture(autouse=True)
def loot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command whose handler publishes what it is told to."""
    for name in ("_types", "_by_model", "_handlers"):
        monkeypatch.setattr(default, name, dict(getattr(default, name)))

    @default.command("loot.drop", subject="room")
    class LootDrop(BaseModel):
        name: str
        channel: str | None = None
        data: dict[str, Any] = {}

    @default.handles(LootDrop)
    async def drop(command: Command[LootDrop]) -> Effects:
        asked = command.payload
        return Effects().publish(asked.name, asked.data, channel=asked.channel)


async def test_what_a_plugin_publishes_on_a_room_is_shown_to_its_members(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    await chat.done("loot.drop", "room:lobby", {"name": "loot.drop", "data": {"item": "sword"}})
    assert (await client.push("loot.drop"))["data"] == {"item": "sword"}


@pytest.mark.parametrize(
    ("name", "channel"),
    [
        ("message", None), ("notice", None), ("deleted", None), ("room", None), ("message", "room:lobby"),
        ("hello", None), ("ping", None), ("reconnect", None), ("presence", None), ("sanction", "room:lobby"),
        ("connected", None),
        ("sanction", "control"), ("replaced", "control"), ("shadow", "control"), ("config.reload", "control"),
    ],
)  # fmt: skip
async def test_a_plugin_cannot_publish_in_our_name(
    chat: Chat, node: RunningNode, name: str, channel: str | None
) -> None:
    outcome = await chat.operate("loot.drop", "room:lobby", {"name": name, "channel": channel})
    assert outcome.state == "dead"
    assert outcome.error is not None
    assert outcome.error.code == "effects_failed"


async def test_a_room_with_a_forged_publication_can_be_joined_read_and_cleared(chat: Chat, node: RunningNode) -> None:
    there = await chat.client(node, "u1", "lobby")
    for name in ("message", "notice", "deleted", "room"):
        await chat.bridge.channels.publish(Channel.of_subject("room:lobby", chat.bridge.shards), name, {"text": "x"})
        assert (await there.push(name))["data"] == {"text": "x"}
    await there.say("lobby", "after it")
    client = await chat.client(node, "u2", "lobby")
    answer = await client.ask("history", room="lobby")
    assert [m["text"] for m in answer["messages"]] == ["after it"]
    assert (await chat.done("room.clear", "room:lobby")).result == {"deleted": 1}
