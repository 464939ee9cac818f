"""A channel is followed without a gap, whatever happens to the subscription and to the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest

from bridge.channels import Channel
from bridge.client import Bridge
from bridge.envelope import Position, Publication
from bridge.errors import Unreachable
from chatserver.follower import Follower, _after
from tests.chatserver.conftest import Chat
from tests.chatserver.unsent import publish_unsent
from tests.servers import Server
from tests.waiting import answered, until

ROOM = Channel.of_subject("room:lobby", 4)


def log(*places: tuple[str, int]) -> list[Publication]:
    return [Publication("room:lobby", epoch, offset, "message", 0, {}) for epoch, offset in places]


@pytest.mark.parametrize(
    ("at", "entries", "following"),
    [
        (Position("", 0), log(), []),
        (Position("", 0), log(("a", 1), ("a", 2)), [1, 2]),
        (Position("", 0), log(("a", 2)), None),
        (Position("a", 5), log(("a", 5)), []),
        (Position("a", 5), log(("a", 5), ("a", 6), ("a", 7)), [6, 7]),
        (Position("a", 5), log(("a", 5), ("b", 6)), [6]),
        (Position("a", 5), log(("a", 6)), [6]),
        (Position("a", 5), log(("b", 6)), None),
        (Position("a", 5), log(("b", 5), ("b", 6)), None),
        (Position("a", 5), log(("a", 7)), None),
        (Position("a", 5), log(("a", 5), ("a", 7)), None),
        (Position("a", 5), log(), None),
    ],
    ids=[
        "nothing was ever there", "from the start", "the start is gone", "nothing new", "what came",
        "another life of the server", "ours was trimmed", "ours was trimmed and another life", "ours was lost",
        "some were trimmed", "a hole", "all is gone",
    ],
)  # fmt: skip
def test_what_follows_a_place(at: Position, entries: list[Publication], following: list[int] | None) -> None:
    found = _after(at, entries)
    assert (found if found is None else [p.offset for p in found]) == following


class Followed:
    """A follower under test, what it delivered and how often it lost its way."""

    def __init__(self, bridge: Bridge, tasks: asyncio.TaskGroup) -> None:
        self.texts: list[str] = []
        self.losses = self.reconnections = 0
        self.follower = Follower(
            ROOM,
            channels=bridge.channels,
            subscriptions=bridge.subscriptions,
            keys=bridge.keys,
            spawn=tasks.create_task,
            deliver=lambda publication: self.texts.append(publication.data["text"]),
            lost=self._lost,
            reconnected=self._reconnected,
        )

    def _lost(self) -> None:
        self.losses += 1

    def _reconnected(self) -> None:
        self.reconnections += 1


@pytest.fixture
async def operator(server: Server) -> AsyncIterator[Bridge]:
    async with Bridge.connect(server.url, shards=4, timeout=10) as bridge:
        yield bridge


@pytest.fixture
async def cut_off(server: Server, start_proxy: Callable[..., Any]) -> AsyncIterator[tuple[Followed, Any]]:
    """A follower whose connections go through a proxy."""
    proxy = await start_proxy(server)
    async with Bridge.connect(proxy.url, shards=4) as bridge, asyncio.TaskGroup() as tasks:
        followed = Followed(bridge, tasks)
        await followed.follower.subscribe()
        yield followed, proxy
        followed.follower.close()


async def publish(bridge: Bridge, first: int, last: int) -> Position | None:
    place = None
    for i in range(first, last + 1):
        place = await bridge.channels.publish(ROOM, "message", {"text": str(i)})
    return place


def numbers(first: int, last: int) -> list[str]:
    return [str(i) for i in range(first, last + 1)]


async def test_what_came_before_the_place_is_left_out_and_the_rest_delivered(
    operator: Bridge, cut_off: tuple[Followed, Any]
) -> None:
    followed, _ = cut_off
    place = await publish(operator, 1, 3)
    await publish(operator, 4, 5)
    assert place is not None
    followed.follower.begin(place)
    await publish(operator, 6, 6)
    await until(lambda: len(followed.texts) >= 3)
    assert followed.texts == numbers(4, 6)


async def test_a_dropped_subscription_misses_nothing(operator: Bridge, cut_off: tuple[Followed, Any]) -> None:
    followed, proxy = cut_off
    followed.follower.begin(Position("", 0))
    for round in range(3):
        first = 1 + round * 30
        await publish(operator, first, first + 9)
        proxy.cut()
        await publish(operator, first + 10, first + 19)
        proxy.heal()
        await publish(operator, first + 20, first + 29)
        await until(lambda last=first + 29: len(followed.texts) >= last)
    assert followed.texts == numbers(1, 90)
    assert followed.reconnections >= 3
    assert followed.losses == 0


async def test_many_who_wait_for_one_subscription_hear_together_that_it_cannot_be_had(
    server: Server, start_proxy: Callable[..., Any]
) -> None:
    proxy = await start_proxy(server)
    async with Bridge.connect(proxy.url, shards=4) as bridge, asyncio.TaskGroup() as tasks:
        followed = Followed(bridge, tasks)
        proxy.black_hole()
        waiting = asyncio.gather(*(followed.follower.subscribe() for _ in range(60)), return_exceptions=True)
        answers = await asyncio.wait_for(waiting, 30)  # one after the other they would take a minute
        assert {type(answer) for answer in answers} == {Unreachable}
        proxy.heal()
        await answered(followed.follower.subscribe)
        followed.follower.close()


async def test_silence_is_noticed_without_a_publication(operator: Bridge, cut_off: tuple[Followed, Any]) -> None:
    followed, proxy = cut_off
    followed.follower.begin(Position("", 0))
    proxy.drop()
    await publish(operator, 1, 1)
    await until(lambda: followed.texts == ["1"])


async def test_more_than_the_log_holds_is_told_as_lost(server: Server, start_proxy: Callable[..., Any]) -> None:
    proxy = await start_proxy(server)
    async with (
        Bridge.connect(server.url, shards=4, history_length=10) as operator,
        Bridge.connect(proxy.url, shards=4, history_length=10) as bridge,
        asyncio.TaskGroup() as tasks,
    ):
        followed = Followed(bridge, tasks)
        await followed.follower.subscribe()
        followed.follower.begin(Position("", 0))
        proxy.cut()
        await publish(operator, 1, 300)
        proxy.heal()
        await until(lambda: followed.losses == 1)
        place = await publish(operator, 301, 301)
        assert place is not None
        followed.follower.begin(place)
        await publish(operator, 302, 302)
        await until(lambda: followed.texts[-1:] == ["302"])
        assert followed.texts == ["302"]
        followed.follower.close()


async def test_a_restarted_server_that_lost_nothing_is_followed_on(own_server: Server) -> None:
    async with Bridge.connect(own_server.url, shards=4) as bridge, asyncio.TaskGroup() as tasks:
        followed = Followed(bridge, tasks)
        await followed.follower.subscribe()
        followed.follower.begin(Position("", 0))
        before = await publish(bridge, 1, 5)
        await own_server.restart()
        await until(lambda: bridge.redis.connected)
        after = await publish(bridge, 6, 8)
        await until(lambda: len(followed.texts) >= 8)
        assert before is not None
        assert after is not None
        assert before.epoch != after.epoch
        assert followed.texts == numbers(1, 8)
        assert followed.losses == 0
        followed.follower.close()


async def test_a_channel_that_begins_again_is_told_as_lost(operator: Bridge, cut_off: tuple[Followed, Any]) -> None:
    followed, _ = cut_off
    followed.follower.begin(Position("", 0))
    await publish(operator, 1, 5)
    await operator.redis.call("FLUSHALL")
    await publish(operator, 6, 6)
    await until(lambda: followed.losses == 1)


async def test_a_publication_that_cannot_be_delivered_holds_up_nothing(
    operator: Bridge, cut_off: tuple[Followed, Any]
) -> None:
    followed, proxy = cut_off
    followed.follower.begin(Position("", 0))
    proxy.cut()
    await operator.channels.publish(ROOM, "message", {"no": "text"})
    await publish(operator, 2, 3)
    proxy.heal()
    await publish(operator, 4, 4)
    await until(lambda: len(followed.texts) >= 3)
    assert followed.texts == numbers(2, 4)


async def test_what_was_lost_between_subscription_and_snapshot_is_read_from_the_log(
    operator: Bridge, cut_off: tuple[Followed, Any]
) -> None:
    """The snapshot was taken while the subscription was away: what came after it was sent to nobody here."""
    followed, proxy = cut_off
    place = await publish(operator, 1, 3)
    assert place is not None
    proxy.cut()
    await publish(operator, 4, 5)
    proxy.heal()
    await until(lambda: followed.reconnections)
    followed.follower.begin(place)
    await until(lambda: followed.texts == numbers(4, 5))


async def test_what_was_lost_without_a_sign_is_read_at_the_second_look(
    operator: Bridge, cut_off: tuple[Followed, Any]
) -> None:
    followed, _ = cut_off
    followed.follower.begin(Position("", 0))
    await publish(operator, 1, 2)
    await until(lambda: followed.texts == numbers(1, 2))
    place = await publish_unsent(operator, ROOM, {"text": "3"})
    followed.follower.look(place)
    await until(lambda: not followed.follower._recovering)
    assert followed.texts == numbers(1, 2)  # it may be under way
    followed.follower.look(place)
    await until(lambda: followed.texts == numbers(1, 3))
    followed.follower.look(place)
    followed.follower.look(place)
    assert not followed.follower._recovering


async def test_what_no_log_has_is_looked_for_with_pauses(operator: Bridge, cut_off: tuple[Followed, Any]) -> None:
    """It came from a primary that died before another server had it."""
    followed, _ = cut_off
    followed.follower.begin(Position("", 0))
    place = await publish(operator, 1, 5)
    assert place is not None
    await until(lambda: followed.texts == numbers(1, 5))
    reads, loop = counted_reads(followed), asyncio.get_running_loop()
    began = loop.time()
    await send(operator, place.epoch, 7)
    await until(lambda: len(reads) >= 4)
    assert loop.time() - began >= 0.05 + 0.1 + 0.2
    await publish(operator, 6, 8)
    await until(lambda: followed.texts == numbers(1, 8))
    assert followed.losses == 0


async def send(bridge: Bridge, epoch: object, offset: object) -> None:
    """To subscribers only."""
    record = {"channel": ROOM.name, "epoch": epoch, "offset": offset, "type": "message", "at": 0, "data": {"text": "?"}}
    await bridge.redis.call("SPUBLISH", bridge.keys.channel(ROOM.shard, ROOM.name), orjson.dumps(record))


Logged = list[Publication]


def counted_reads(followed: Followed, then: Callable[[Logged], Awaitable[Logged]] | None = None) -> list[Logged]:
    """What the follower reads of the log from now on. ``then`` makes something of the first one."""
    reads: list[Logged] = []
    channels = followed.follower._channels
    original = channels.log

    async def read(*arguments: Any, **options: Any) -> Logged:
        found = await original(*arguments, **options)
        reads.append(found)
        return await then(found) if then is not None and len(reads) == 1 else found

    channels.log = read  # type: ignore[method-assign]
    return reads


async def test_what_comes_while_the_log_is_read_is_delivered_after_it(
    operator: Bridge, cut_off: tuple[Followed, Any]
) -> None:
    followed, _ = cut_off
    followed.follower.begin(Position("", 0))
    await publish(operator, 1, 2)
    await until(lambda: followed.texts == numbers(1, 2))

    async def two_more(found: Logged) -> Logged:
        await publish(operator, 5, 6)
        await until(lambda: [p.offset for p in followed.follower._held] == [4, 5, 6])
        return found

    reads = counted_reads(followed, two_more)
    await publish_unsent(operator, ROOM, {"text": "3"})
    await publish(operator, 4, 4)
    await until(lambda: len(followed.texts) == 6)
    assert followed.texts == numbers(1, 6)
    assert [p.offset for p in reads[0]] == [2, 3, 4]


@pytest.mark.parametrize("entry", [b"no JSON", b"1", b'{"channel": "room:lobby"}'])
async def test_what_somebody_else_wrote_onto_the_log_is_left_out(
    operator: Bridge, cut_off: tuple[Followed, Any], entry: bytes
) -> None:
    followed, _ = cut_off
    followed.follower.begin(Position("", 0))
    await publish(operator, 1, 2)
    await until(lambda: followed.texts == numbers(1, 2))
    await operator.redis.call("XADD", operator.keys.log(ROOM.shard, ROOM.name), "2-1", "x", entry)
    await publish_unsent(operator, ROOM, {"text": "3"})
    await publish(operator, 4, 5)
    await until(lambda: len(followed.texts) == 5)
    assert followed.texts == numbers(1, 5)
    assert followed.losses == 0


async def test_what_somebody_else_sent_disturbs_nobody(operator: Bridge, cut_off: tuple[Followed, Any]) -> None:
    followed, _ = cut_off
    for epoch, offset in (("e", "far"), (7, 1)):
        await send(operator, epoch, offset)
    await publish(operator, 1, 1)
    await until(lambda: followed.follower._held)
    followed.follower.begin(Position("", 0))
    await publish(operator, 2, 2)
    await until(lambda: followed.texts == numbers(1, 2))


async def test_who_joins_a_room_with_a_foreign_entry_in_its_log_is_let_in(chat: Chat) -> None:
    node = await chat.start_node()
    await chat.done("room.open", "room:lobby", {})
    client = await chat.client(node, "u1", "lobby")
    await client.say("lobby", "1")
    offset = (await client.push("message"))["offset"]
    log = chat.bridge.keys.log(chat.bridge.shard_of("room:lobby"), "room:lobby")
    await chat.bridge.redis.call("XADD", log, f"{offset}-1", "x", "no publication")
    await client.say("lobby", "2")
    joined = await (await chat.client(node, "u2")).ask("join", room="lobby")
    assert [m["text"] for m in joined["messages"]] == ["1", "2"]
    assert [m["text"] for m in (await client.ask("history", room="lobby", limit=10))["messages"]] == ["1", "2"]


async def test_a_place_that_is_no_further_is_nothing_due(operator: Bridge, cut_off: tuple[Followed, Any]) -> None:
    followed, _ = cut_off
    followed.follower.begin(Position("", 0))
    place = await publish(operator, 1, 2)
    await until(lambda: followed.texts == numbers(1, 2))
    for earlier in (place, None, Position(place.epoch if place else "", 1)):
        followed.follower.look(earlier)
        followed.follower.look(earlier)
        assert not followed.follower._recovering


async def test_members_get_what_was_lost_without_a_sign(chat: Chat) -> None:
    node = await chat.start_node()
    await chat.done("room.open", "room:lobby", {})
    client = await chat.client(node, "u1", "lobby")
    said = {"user": "u2", "name": "U2", "text": "unsent"}
    await publish_unsent(chat.bridge, ROOM, said)
    await client.push("message", text="unsent")


async def test_nodes_hear_of_control_events_that_were_lost_without_a_sign(chat: Chat) -> None:
    node = await chat.start_node()
    client = await chat.client(node, "u1")
    flash = {"text": "unsent", "level": "info", "seconds": 5}
    await publish_unsent(chat.bridge, Channel.control(2), flash, type="notice.flash")
    await client.push("notice", text="unsent")


async def test_a_node_ends_though_it_still_looks_for_what_no_log_has(chat: Chat) -> None:
    node = await chat.start_node()
    await chat.done("room.open", "room:lobby", {})
    client = await chat.client(node, "u1", "lobby")
    await client.say("lobby", "1")
    said = await client.push("message")
    lobby = node.node.rooms.get("lobby")
    assert lobby is not None
    await send(chat.bridge, said["epoch"], said["offset"] + 2)
    await until(lambda: lobby.follower._recovering)
    async with asyncio.timeout(30):
        await node.stop()


async def test_whoever_joins_again_while_the_room_is_lost_begins_anew_as_all_others_do(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await chat.start_node()
    await chat.done("room.open", "room:lobby", {})
    client = await chat.client(node, "u1", "lobby")
    await client.say("lobby", "1")
    said = await client.push("message")
    lobby, asked = node.node.rooms.get("lobby"), asyncio.Event()
    assert lobby is not None

    async def fail_at_last(*_: object) -> None:
        asked.set()
        await until(lambda: lobby.follower.position is None)
        raise Unreachable("away")

    monkeypatch.setattr(node.node.rooms._state, "join", fail_at_last)
    await client.send(type="join", id=99, room="lobby")
    await asked.wait()
    await chat.bridge.redis.call("DEL", chat.bridge.keys.log(ROOM.shard, ROOM.name))
    await send(chat.bridge, said["epoch"], said["offset"] + 2)
    assert await client.close_code() == 4004
