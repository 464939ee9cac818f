"""Every node says how many sessions a command touched, and who says nothing is named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bridge.channels import Channel
from bridge.chat.events import sanction_event
from bridge.envelope import Publication
from bridge.errors import Unreachable
from bridge.receipts import SILENT_MS, Answers, Presence, Receipts, missing_nodes
from bridge.record import Outcome
from chatserver import receipts
from chatserver.control import Control
from chatserver.follower import Follower
from chatserver.hub import Hub
from chatserver.receipts import Applied, Reporter
from chatserver.rooms import Rooms
from chatserver.state import ChatState
from tests.chatserver.conftest import Chat, RunningNode
from tests.servers import Server
from tests.waiting import until

Pair = tuple[RunningNode, RunningNode]


async def said(chat: Chat, outcome: Outcome) -> dict[str, int]:
    """What the nodes said, once all that live have."""
    answers: Answers = await until(lambda: _complete(chat, outcome))
    return {touched.node: touched.sessions for touched in answers.receipts}


async def _complete(chat: Chat, outcome: Outcome) -> Answers | None:
    answers = await chat.bridge.receipts.read(outcome)
    return None if answers.missing else answers


@pytest.mark.parametrize(
    ("type", "subject", "payload"),
    [
        ("user.kick", "user:u1", {}),
        ("user.ban", "user:u1", {}),
        ("user.mute", "user:u1", {"seconds": 60}),
        ("user.mute", "user:u1", {"seconds": 60, "shadow": True}),
        ("user.unmute", "user:u1", {}),
        ("user.warn", "user:u1", {"text": "careful"}),
        ("member.kick", "room:lobby", {"user": "u1"}),
        ("member.ban", "room:lobby", {"user": "u1"}),
        ("member.mute", "room:lobby", {"user": "u1"}),
    ],
)
async def test_every_node_says_how_many_sessions_a_command_touched(
    chat: Chat, two_nodes: Pair, type: str, subject: str, payload: dict[str, Any]
) -> None:
    await chat.start_node("node-c")
    first, second = two_nodes
    for node in (first, second, second):
        await chat.client(node, "u1", "lobby")
    await chat.client(first, "u2", "lobby")
    assert await said(chat, await chat.done(type, subject, payload)) == {"node-a": 1, "node-b": 2, "node-c": 0}


async def test_a_shadow_mute_that_hides_behind_an_unmute_is_counted_once(chat: Chat, node: RunningNode) -> None:
    client = await chat.client(node, "u1", "lobby")
    await chat.done("user.mute", "user:u1", {"seconds": 60})
    outcome = await chat.done("user.mute", "user:u1", {"seconds": 60, "shadow": True})
    await client.push("sanction", kind="unmute")
    assert await said(chat, outcome) == {"node-a": 1}
    assert (await client.say("lobby", "x"))["type"] == "ok"  # so far as they see


async def test_a_command_that_tells_no_control_channel_is_not_answered(chat: Chat, node: RunningNode) -> None:
    outcome = await chat.done("room.freeze", "room:lobby")
    assert not outcome.control
    assert await chat.bridge.receipts.read(outcome) == Answers()


async def test_a_rejected_command_waits_for_no_node(chat: Chat, node: RunningNode) -> None:
    outcome = await chat.operate("room.freeze", "room:nowhere")
    assert outcome.state == "rejected"
    assert await chat.bridge.receipts.read(outcome) == Answers()


async def test_receipts_live_as_long_as_outcomes(chat: Chat, node: RunningNode) -> None:
    outcome = await chat.done("user.kick", "user:u1")
    await said(chat, outcome)
    shard, bridge = chat.bridge.shard_of("user:u1"), chat.bridge
    left = await bridge.redis.call("TTL", bridge.keys.receipts(shard, outcome.id))
    assert bridge.settings.outcome_seconds - 60 < left <= bridge.settings.outcome_seconds


async def test_an_event_that_comes_again_touches_nobody_twice_and_is_answered_alike(
    chat: Chat, node: RunningNode
) -> None:
    client, bridge = await chat.client(node, "u1", "lobby"), chat.bridge
    shard = bridge.shard_of("user:u1")
    outcome = await chat.done("user.kick", "user:u1")
    assert await client.close_code() == 4503
    assert await said(chat, outcome) == {"node-a": 1}
    key = bridge.keys.receipts(shard, outcome.id)
    await bridge.redis.call("DEL", key)

    back = await chat.client(node, "u1", "lobby")
    event = sanction_event("kick", user="u1", room=None, command_id=outcome.id)
    await bridge.channels.publish(Channel.control(shard), "sanction", event)
    assert await said(chat, outcome) == {"node-a": 1}
    assert (await back.ask("ping"))["type"] == "pong"


async def test_an_id_that_is_no_command_of_ours_is_not_answered(chat: Chat, node: RunningNode) -> None:
    client, bridge = await chat.client(node, "u1", "lobby"), chat.bridge
    client.documented = False
    for odd in ("order-77", f"{bridge.shards}-1-1", 7):
        event = sanction_event("warn", user="u1", room=None, command_id=odd, text="x")  # type: ignore[arg-type]
        await bridge.channels.publish(Channel.control(0), "sanction", event)
        await client.push("sanction", kind="warn", command_id=odd)
    assert await bridge.redis.call("KEYS", "*receipts*") == []


async def test_a_node_that_is_cut_off_is_named_until_it_answers(
    chat: Chat, server: Server, start_proxy: Callable[..., Any]
) -> None:
    proxy = await start_proxy(server)
    await chat.start_node("node-a")
    await chat.done("room.open", "room:lobby")
    away = await chat.start_node("node-b", redis_url=proxy.url, drain_seconds=1)
    client = await chat.client(away, "u1", "lobby")
    proxy.black_hole()
    outcome = await chat.done("user.mute", "user:u1", {"seconds": 600})
    await until(lambda: _said_by(chat, outcome, ["node-a"], ["node-b"]))
    proxy.heal()
    await client.push("sanction", kind="mute", command_id=outcome.id)
    assert await said(chat, outcome) == {"node-a": 0, "node-b": 1}


async def _said_by(chat: Chat, outcome: Outcome, given: list[str], missing: list[str]) -> bool:
    answers = await chat.bridge.receipts.read(outcome)
    return ([touched.node for touched in answers.receipts], list(answers.missing)) == (given, missing)


async def test_what_a_fail_over_took_back_of_the_answers_is_written_again(
    chat: Chat, server: Server, start_proxy: Callable[..., Any]
) -> None:
    proxy = await start_proxy(server)
    node = await chat.start_node("node-a", redis_url=proxy.url, drain_seconds=1)
    await chat.client(node, "u1")
    outcome = await chat.done("user.mute", "user:u1", {"seconds": 600})
    assert await said(chat, outcome) == {"node-a": 1}
    await chat.bridge.redis.call("DEL", chat.bridge.keys.receipts(chat.bridge.shard_of("user:u1"), outcome.id))
    proxy.drop()
    assert await said(chat, outcome) == {"node-a": 1}


class Counting(Reporter):
    """How often it was asked to report."""

    asked = 0

    def report(self, command_id: str, sessions: int) -> None:
        self.asked += 1
        super().report(command_id, sessions)


async def test_after_a_reconnection_of_all_channels_receipts_are_written_again_once(chat: Chat) -> None:
    """A node has as many channels as it has rooms, and thousands of commands may have come lately."""
    bridge, reporter, hub = chat.bridge, Counting(chat.bridge.receipts, "node-a", chat.bridge.shards), Hub(20)

    def follow(*_: Any) -> Follower:
        raise AssertionError("nothing is followed here")

    state = ChatState(bridge, "node-a")
    control = Control(
        hub,
        Rooms(state, "node-a", bridge.shards, follow),
        state,
        bridge.channels,
        follow=follow,
        spawn=asyncio.ensure_future,
        reload=lambda: None,
        reporter=reporter,
    )
    event = sanction_event("mute", user="u1", room=None, command_id="1-5-1")
    control.hear(Publication("control", "e", 1, "sanction", 0, event))
    assert reporter.asked == 1
    for _ in range(1000):
        control.reconnected()
    for _ in range(2):
        await control.step()
    assert reporter.asked == 2


async def test_a_burst_is_answered_completely_by_every_node(chat: Chat, two_nodes: Pair) -> None:
    await chat.client(two_nodes[0], "u7")
    outcomes = await asyncio.gather(*(chat.done("user.warn", f"user:u{i}", {"text": "x"}) for i in range(200)))
    answers = await asyncio.gather(*(said(chat, outcome) for outcome in outcomes))
    assert answers == [{"node-a": int(i == 7), "node-b": 0} for i in range(200)]


async def test_a_node_that_came_later_or_left_in_good_order_is_not_missed(chat: Chat, two_nodes: Pair) -> None:
    outcome = await chat.done("user.kick", "user:u1")
    await said(chat, outcome)
    key = chat.bridge.keys.receipts(chat.bridge.shard_of("user:u1"), outcome.id)
    await chat.start_node("node-c")
    assert (await chat.bridge.receipts.read(outcome)).missing == ()
    await two_nodes[1].stop()
    chat.nodes.remove(two_nodes[1])
    await chat.bridge.redis.call("HDEL", key, "node-b")
    assert (await chat.bridge.receipts.read(outcome)).missing == ()


async def test_whoever_waits_gets_the_answers_of_live_nodes_and_waits_for_no_dead_one(
    chat: Chat, node: RunningNode
) -> None:
    outcome, bridge = await chat.done("user.kick", "user:u1"), chat.bridge
    await said(chat, outcome)
    loop, ended_at = asyncio.get_running_loop(), outcome.timeline[-1].at
    await bridge.redis.call("ZADD", bridge.keys.live, ended_at, "node-x")
    await bridge.redis.call("HSET", bridge.keys.info, "node-x", 'boot {"joined_at":0}')
    await until(lambda: _is_dead(chat, "node-x"))
    began = loop.time()
    answers = await bridge.receipts.read(outcome, grace_s=60)
    assert (answers.missing, answers.pending) == (("node-x",), False)
    assert loop.time() - began < 30

    waiting = asyncio.create_task(bridge.receipts.read(outcome, grace_s=60))
    await bridge.redis.call("HDEL", bridge.keys.info, "node-x")
    key = bridge.keys.receipts(bridge.shard_of("user:u1"), outcome.id)
    await bridge.redis.call("DEL", key)
    assert (await bridge.receipts.read(outcome)).pending
    await bridge.receipts.write("node-a", bridge.shard_of("user:u1"), {outcome.id: 3})
    assert not (await waiting).missing


async def _is_dead(chat: Chat, name: str) -> bool:
    return any(node.name == name and node.state == "dead" for node in await chat.bridge.nodes())


NOW = 1_000_000


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        (Presence("a", 0, NOW + 9), ["a"]),
        (Presence("a", NOW, NOW + 9), ["a"]),
        (Presence("a", NOW + 1, NOW + 9), []),  # it came later
        (Presence("a", 0, NOW - 5_000), ["a"]),  # stopped, cut off or killed; its sessions may be open still
        (Presence("a", 0, NOW - SILENT_MS), ["a"]),
        (Presence("a", 0, NOW - SILENT_MS - 1), []),
        (Presence("b", 0, NOW + 9), []),  # it answered
    ],
)
def test_who_is_missed(present: Presence, missing: list[str]) -> None:
    assert list(missing_nodes([present], {"b"}, NOW)) == missing


class Broken(Receipts):
    """Redis does not answer for the first so many calls."""

    def __init__(self, bridge: Any, failures: int) -> None:
        super().__init__(bridge.redis, bridge.keys, bridge.settings)
        self.failures = failures

    async def write(self, node: str, shard: int, sessions: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise Unreachable("away")
        await super().write(node, shard, sessions)


class Interrupted(Broken):
    """While it does not answer, something else happens."""

    def __init__(self, bridge: Any, meanwhile: Callable[[], None]) -> None:
        super().__init__(bridge, 1)
        self._meanwhile = meanwhile

    async def write(self, node: str, shard: int, sessions: Any) -> None:
        if self.failures:
            self._meanwhile()
        await super().write(node, shard, sessions)


async def test_what_is_reported_while_redis_is_away_is_newer_than_what_waits(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "MAX_UNWRITTEN", 2)

    def meanwhile() -> None:
        reporter.report("1-5-1", 4)
        reporter.report("1-6-1", 1)

    reporter = Reporter(Interrupted(chat.bridge, meanwhile), "node-a", chat.bridge.shards)
    reporter.report("1-5-1", 3)
    reporter.report("1-4-1", 9)
    with pytest.raises(Unreachable):
        await reporter.step()
    assert reporter.dropped == 1
    await reporter.step()
    assert await _stored(chat, "1-5-1")
    found = await chat.bridge.redis.call("KEYS", "*receipts*")
    assert sorted(found) == [b"chat:{1}:receipts:1-5-1", b"chat:{1}:receipts:1-6-1"]


async def test_receipts_wait_for_redis_to_come_back(chat: Chat) -> None:
    reporter = Reporter(Broken(chat.bridge, 2), "node-a", chat.bridge.shards)
    reporter.report("1-5-1", 4)
    running = asyncio.create_task(reporter.run())
    await until(lambda: _stored(chat, "1-5-1"))
    running.cancel()
    assert reporter.dropped == 0


async def _stored(chat: Chat, id: str) -> bool:
    return bool(await chat.bridge.redis.call("HGETALL", chat.bridge.keys.receipts(1, id)) == {b"node-a": b"4"})


async def test_while_redis_is_away_the_oldest_receipts_go_first_and_are_counted(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "MAX_UNWRITTEN", 3)
    reporter = Reporter(Broken(chat.bridge, 1), "node-a", chat.bridge.shards)
    for i in range(5):
        reporter.report(f"1-{i}-1", i)
    assert reporter.dropped == 2
    with pytest.raises(Unreachable):
        await reporter.step()
    reporter.report("1-5-1", 5)
    assert reporter.dropped == 3
    await reporter.step()
    found = await chat.bridge.redis.call("KEYS", "*receipts*")
    assert sorted(found) == [b"chat:{1}:receipts:1-3-1", b"chat:{1}:receipts:1-4-1", b"chat:{1}:receipts:1-5-1"]


async def test_a_receipt_that_redis_refuses_is_dropped_and_counted(chat: Chat) -> None:
    await chat.bridge.redis.call("SET", chat.bridge.keys.receipts(1, "1-5-1"), "no hash")
    reporter = Reporter(chat.bridge.receipts, "node-a", chat.bridge.shards)
    reporter.report("1-5-1", 1)
    reporter.report("2-5-1", 1)
    await reporter.step()
    assert reporter.dropped == 1
    assert await chat.bridge.redis.call("EXISTS", chat.bridge.keys.receipts(2, "2-5-1")) == 1


async def test_the_receipts_of_one_turn_are_few_calls(chat: Chat) -> None:
    reporter = Reporter(chat.bridge.receipts, "node-a", chat.bridge.shards)
    for i in range(250):
        reporter.report(f"1-{i}-1", i)
    before = await _script_calls(chat)
    await reporter.step()
    assert await _script_calls(chat) - before == 3
    assert len(await chat.bridge.redis.call("KEYS", "*receipts*")) == 250


async def _script_calls(chat: Chat) -> int:
    stats = (await chat.bridge.redis.call("INFO", "commandstats")).decode()
    lines = [line for line in stats.splitlines() if line.startswith("cmdstat_evalsha:")]
    return int(lines[0].split("calls=")[1].split(",")[0]) if lines else 0


def test_what_was_applied_is_forgotten_in_time() -> None:
    applied = Applied(most=2)
    for i in range(3):
        applied.note(f"1-{i}-1", "sanction kick", i)
    assert [applied.knows(f"1-{i}-1", "sanction kick") for i in range(3)] == [False, True, True]
    assert not applied.knows("1-2-1", "sanction mute")
    assert applied.within(60) == ["1-2-1", "1-1-1"]
    assert applied.within(-1) == []
