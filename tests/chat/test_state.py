"""How both services read what handlers and nodes wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest

import bridge.chat.commands  # noqa: F401 - registers the types
from bridge.chat import state
from bridge.chat.state import Member, Sanction, SessionInfo
from bridge.client import Bridge
from tests.servers import Server


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Bridge]:
    async with Bridge.connect(server.url, shards=4) as connected:
        yield connected


def key(store: Bridge, subject: str, name: str) -> str:
    return store.keys.state(store.shard_of(subject), subject, name)


async def open_room(store: Bridge, id: str, title: str = "A room", state: str = "open") -> None:
    fields = ("title", title, "state", state, "slow_mode_s", 3, "opened_at", 1000)
    await store.redis.call("HSET", key(store, f"room:{id}", "settings"), *fields)
    await store.redis.call("ZADD", store.keys.shared(store.shard_of(f"room:{id}"), "rooms"), 1000, id)


async def sanction(store: Bridge, given: Sanction) -> None:
    subject = f"room:{given.room}" if given.room else f"user:{given.user}"
    index = state.index_member(given.kind, given.user, given.room)
    if given.room:
        name, value = state.restriction(given.kind, given.user), given.record()
    else:
        name, value = "sanctions", {given.kind: given.record()}
    await store.redis.call("SET", key(store, subject, name), orjson.dumps(value))
    until = "+inf" if given.until is None else given.until
    await store.redis.call("ZADD", store.keys.shared(store.shard_of(subject), "sanctions"), until, index)


async def test_rooms_are_listed_in_order_page_by_page(store: Bridge) -> None:
    for id in ("b", "a", "d", "c"):
        await open_room(store, id, title=id.upper())
    first = await state.list_rooms(store, limit=3)
    assert [room.id for room in first] == ["a", "b", "c"]
    assert [room.title for room in await state.list_rooms(store, after="c", limit=3)] == ["D"]


async def test_a_room_that_nobody_opened_is_none(store: Bridge) -> None:
    assert await state.read_room(store, "nowhere") is None


async def test_members_are_users_seen_of_late_however_many_sessions_they_have(store: Bridge) -> None:
    await open_room(store, "lobby")
    now = await state.server_ms(store)
    for score, member in (
        (now, ["u1", "Ann", "a", "s1"]),
        (now - 20_000, ["u1", "Ann", "b", "s2"]),
        (now - state.STALE_MS - 1000, ["u2", "Bea", "a", "s3"]),
    ):
        await store.redis.call("ZADD", key(store, "room:lobby", "present"), score, orjson.dumps(member))
    room = await state.read_room(store, "lobby")
    assert room is not None
    assert (room.members, room.slow_mode_s, room.state) == (1, 3, "open")
    assert await state.read_members(store, "lobby") == [Member("u1", "Ann", "a", "s1"), Member("u1", "Ann", "b", "s2")]


async def test_sanctions_that_hold_are_listed_and_those_that_ended_are_not(store: Bridge) -> None:
    now = await state.server_ms(store)
    everywhere = Sanction("ban", "u1", None, now, None, "spam", "op", "1-2-3")
    here = Sanction("mute", "u1", "lobby", now, now + 60_000, None, "op", "1-2-4")
    other = Sanction("mute", "u2", "lobby", now, now + 60_000, None, "op", "1-2-5")
    ended = Sanction("mute", "u3", "lobby", now - 2000, now - 1000, None, "op", "1-2-6")
    for given in (everywhere, here, other, ended):
        await sanction(store, given)
    assert await state.list_sanctions(store) == [everywhere, here, other]
    assert await state.list_sanctions(store, limit=2) == [everywhere, here]
    assert await state.list_sanctions(store, after=state.place(here), limit=2) == [other]
    assert await state.read_user_sanctions(store, "u1") == [everywhere, here]


async def test_an_index_entry_without_its_record_is_left_out(store: Bridge) -> None:
    now = await state.server_ms(store)
    await sanction(store, Sanction("mute", "u1", "lobby", now, None, None, "op", "1-2-3"))
    await store.redis.call("DEL", key(store, "room:lobby", "muted:u1"))
    assert await state.list_sanctions(store) == []


async def test_sessions_of_a_user_are_oldest_first_with_their_rooms(store: Bridge) -> None:
    now = await state.server_ms(store)
    for session, connected_at in (("s2", 2000), ("s1", 1000)):
        member = orjson.dumps([session, "node-a", connected_at, "Ann"])
        await store.redis.call("ZADD", key(store, "user:u1", "sessions"), now, member)
    await store.redis.call("HSET", key(store, "user:u1", "session:rooms"), "s1", b'["lobby","other"]')
    assert await state.read_sessions(store, "u1") == [
        SessionInfo("s1", "node-a", 1000, "Ann", ("lobby", "other")),
        SessionInfo("s2", "node-a", 2000, "Ann"),
    ]
    assert await state.read_sessions(store, "nobody") == []
