"""The scripts of chat state, where a websocket cannot reach: their deadlines and their rarer answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from bridge.chat.state import Member
from bridge.client import Bridge
from bridge.errors import ServerError
from chatserver.frames import Refused, Since
from chatserver.snapshots import Membership, Said, SessionKey
from chatserver.state import BATCH, LATE_MS, MAX_SESSIONS, OVERDUE_MS, ChatState
from tests.servers import Server
from tests.waiting import until

ANN = Member("u1", "Ann", "node-a", "s1")


@pytest.fixture
async def bridge(server: Server) -> AsyncIterator[Bridge]:
    async with Bridge.connect(server.url, shards=4, timeout=10) as connected:
        shard = connected.shard_of("room:lobby")
        fields = ("title", "Lobby", "state", "open", "slow_mode_s", 0, "opened_at", 1)
        await connected.redis.call("HSET", connected.keys.state(shard, "room:lobby", "settings"), *fields)
        yield connected


@pytest.fixture
def state(bridge: Bridge) -> ChatState:
    return ChatState(bridge, "node-a")


async def test_what_was_read_too_long_ago_allows_nothing(state: ChatState) -> None:
    now = await state.read_user("u1")
    for late in (LATE_MS + 500, -LATE_MS - 60_000):
        with pytest.raises(Refused) as refused:
            await state.say(ANN, "lobby", "x", None, replace(now, now=now.now - late))
        assert refused.value.code == "unavailable"
    assert (await say(state, "x")).offset == 1


async def say(state: ChatState, text: str) -> Said:
    """Now; once more where this machine stands still between the two scripts."""

    async def said() -> Said | None:
        with contextlib.suppress(Refused):
            return await state.say(ANN, "lobby", text, None, await state.read_user("u1"))
        return None

    answer: Said = await until(said)
    return answer


async def test_a_say_that_changes_nothing_writes_nothing(state: ChatState, bridge: Bridge) -> None:
    with pytest.raises(Refused):
        await state.say(ANN, "nowhere", "x", "n1", await state.read_user("u1"))
    assert [k for k in await bridge.redis.call("KEYS", "*") if b"nowhere" in k] == []


async def test_younger_sessions_take_the_place_of_older_ones(state: ChatState) -> None:
    async def open_session(number: int) -> SessionKey:
        key = SessionKey("u1", f"s{number}", "Ann")
        (listed,) = await state.keep_sessions([key])
        assert not listed.replaced
        return replace(key, began=listed.began)

    first = await open_session(0)
    await until(lambda: _later(state, first))
    for number in range(1, MAX_SESSIONS + 1):
        await open_session(number)
    (told,) = await state.keep_sessions([first])
    assert told.replaced


async def test_sessions_of_a_node_that_went_away_make_room_before_older_ones(bridge: Bridge) -> None:
    here, there = ChatState(bridge, "node-a"), ChatState(bridge, "node-b")
    first = await _open(here, "s0")
    await until(lambda: _later(here, first))
    older = [first, *[await _open(here, f"s{n}") for n in range(1, 3)]]
    await until(lambda: _later(here, older[-1]))
    dead = [await _open(there, f"s{n}") for n in range(3, MAX_SESSIONS)]
    here.nodes_changed(["node-a", "node-b"])
    here.nodes_changed(["node-a"])
    for n in range(len(dead)):
        await _open(here, f"again{n}")
    assert not any(now.replaced for now in await here.keep_sessions(older))
    here.nodes_changed(["node-a", "node-b"])  # it is back; its sessions count as any other's
    await _open(there, "s9")
    assert (await here.keep_sessions(older[:1]))[0].replaced


async def test_sessions_without_a_sign_of_life_make_room_before_older_ones(state: ChatState, bridge: Bridge) -> None:
    first = await _open(state, "s0")
    await until(lambda: _later(state, first))
    silent = await _open(state, "s1")
    key = bridge.keys.state(bridge.shard_of("user:u1"), "user:u1", "sessions")
    (listed,) = [m for m in await bridge.redis.call("ZRANGE", key, 0, -1) if b"s1" in m]
    await bridge.redis.call("ZADD", key, (silent.began or 0) - OVERDUE_MS - 1000, listed)
    for n in range(2, MAX_SESSIONS + 1):
        await _open(state, f"s{n}")
    assert not (await state.keep_sessions([first]))[0].replaced
    assert (await bridge.redis.call("ZSCORE", key, listed)) is None


async def _open(state: ChatState, session: str) -> SessionKey:
    key = SessionKey("u1", session, "Ann")
    (listed,) = await state.keep_sessions([key])
    return replace(key, began=listed.began)


async def _later(state: ChatState, key: SessionKey) -> bool:
    return key.began is not None and (await state.read_user(key.user)).now > key.began


async def test_many_sessions_and_members_are_kept_in_batches_and_answered_in_order(
    state: ChatState, bridge: Bridge
) -> None:
    keys = [SessionKey(f"u{i}", f"s{i}", f"Name {i}") for i in range(3 * BATCH)]
    listed = await state.keep_sessions(keys)
    assert all(now.user.sanctions == {} and not now.replaced for now in listed)
    shard = bridge.shard_of("room:r7")
    await bridge.redis.call("SET", bridge.keys.state(shard, "room:r7", "banned:u7"), "{}")
    await bridge.redis.call("SET", bridge.keys.state(bridge.shard_of("room:r8"), "room:r8", "kicked:u8"), 2000)
    members = [Membership(f"r{i}", Member(f"u{i}", "x", "node-a", f"s{i}"), 1000) for i in range(3 * BATCH)]
    answers = await state.keep_members(members)
    assert {i: answer for i, answer in enumerate(answers) if answer} == {7: "ban", 8: "kick"}
    changed = await state.rooms_now({m.room: b"" for m in members})
    told = [id for id, now in changed.items() if now.present]
    assert sorted(told) == sorted(m.room for m in members if m.room not in ("r7", "r8"))
    again = await state.rooms_now({room: now.version for room, now in changed.items()})
    assert [now.present for now in again.values()] == [None] * len(again)


async def test_a_shard_that_gives_no_answer_keeps_no_other_from_its_own(state: ChatState, bridge: Bridge) -> None:
    first = {bridge.shard_of(f"room:r{i}"): f"r{i}" for i in range(99, -1, -1)}
    members = [Membership(room, Member("u1", "x", "node-a", "s"), 1000) for room in first.values()]
    sessions = {bridge.shard_of(f"user:u{i}"): SessionKey(f"u{i}", "s", "x") for i in range(99, -1, -1)}
    (room, *_), (session, *_) = members, sessions.values()
    for subject, name in (
        (f"room:{room.room}", "present"),
        (f"room:{room.room}", "present:version"),
        (f"user:{session.user}", "sessions"),
    ):
        await bridge.redis.call("SET", bridge.keys.state(bridge.shard_of(subject), subject, name), "something else")
    kept = await state.keep_members(members)
    assert [isinstance(answer, ServerError) for answer in kept] == [True, False, False, False]
    assert kept[1:] == [""] * 3
    listed = await state.keep_sessions(list(sessions.values()))
    assert [isinstance(answer, ServerError) for answer in listed] == [True, False, False, False]
    there = await state.rooms_now({m.room: b"" for m in members})
    assert [isinstance(now, ServerError) for now in there.values()] == [True, False, False, False]


async def test_of_a_large_room_newcomers_are_told_only_how_many_are_there(
    state: ChatState, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.state.MAX_LISTED", 3)
    fields = ("title", "Lobby", "state", "open", "slow_mode_s", 0, "opened_at", 1)
    await bridge.redis.call("HSET", bridge.keys.state(bridge.shard_of("room:r"), "room:r", "settings"), *fields)
    told = [(await state.join("r", Member(f"u{i}", "x", "node-a", f"s{i}"), None, 50)).present for i in range(5)]
    assert [len(present) if isinstance(present, list) else present for present in told] == [1, 2, 3, 4, 5]
    assert [type(present) for present in told] == [list, list, list, int, int]


async def test_a_place_of_an_earlier_life_of_the_server_is_known_while_the_log_holds_it(own_server: Server) -> None:
    async with Bridge.connect(own_server.url, shards=4) as bridge:
        shard = bridge.shard_of("room:lobby")
        fields = ("title", "Lobby", "state", "open", "slow_mode_s", 0, "opened_at", 1)
        await bridge.redis.call("HSET", bridge.keys.state(shard, "room:lobby", "settings"), *fields)
        state = ChatState(bridge, "node-a")
        for text in ("1", "2"):
            await say(state, text)
        before = (await state.join("lobby", ANN, None, 50)).position
        await own_server.restart()
        await until(lambda: bridge.redis.connected)
        await say(state, "3")
        joined = await state.join("lobby", ANN, Since(epoch=before.epoch, offset=before.offset), 50)
        assert joined.position.epoch != before.epoch
        assert joined.recovered
        assert [p.data["text"] for p in joined.publications] == ["3"]
        forged = await state.join("lobby", ANN, Since(epoch="f" * 24, offset=before.offset), 50)
        assert not forged.recovered


async def test_ended_sanctions_leave_the_index(state: ChatState, bridge: Bridge) -> None:
    key = bridge.keys.shared(2, "sanctions")
    now = (await state.read_user("u1")).now
    await bridge.redis.call(
        "ZADD", key, now - 5000, "room:a|mute|u1", now + 60_000, "room:a|mute|u2", "+inf", "user:u3|ban"
    )
    await state.forget_ended_sanctions()
    assert sorted(await bridge.redis.call("ZRANGE", key, 0, -1)) == [b"room:a|mute|u2", b"user:u3|ban"]
