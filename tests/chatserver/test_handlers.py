"""Handlers as functions: a command and what they may read in, effects out."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

import chatserver.handlers  # noqa: F401 - registers them
from bridge.effects import Effects
from bridge.envelope import Command, Publication, StateReader
from bridge.errors import Rejected
from bridge.registry import default

NOW = 1_800_000_000.25
MS = 1_800_000_000_250
EPOCH = "0123456789abcdef01234567"


async def handle(
    type: str, subject: str, payload: dict[str, Any], state: dict[str, Any] | None = None, log: Any = (), **more: Any
) -> Effects:
    async def read(_: str, name: str) -> Any:
        return (state or {}).get(name)

    async def publications(_: str) -> list[Publication]:
        return list(log)

    known = default.get(type)
    command = Command(
        id="1-2-3",
        type=type,
        subject=subject,
        payload=known.validate(orjson.dumps(payload)),
        reason=more.get("reason"),
        issued_by="op",
        issued_at=NOW - 1,
        attempt=1,
        now=NOW,
        reader=StateReader(read, publications),
    )
    handler = default.handler(type)
    assert handler is not None
    effects = await handler(command)
    assert isinstance(effects, Effects)
    return effects


def writes(effects: Effects) -> list[tuple[str, str]]:
    return [(w.operation, w.name) for w in effects.writes]


def broadcast(effects: Effects) -> tuple[str | None, str, dict[str, Any]]:
    (told,) = effects.broadcasts
    return told.channel, told.type, orjson.loads(told.data)


def test_every_command_of_the_chat_has_its_handler() -> None:
    ours = [known.name for known in default.types() if known.model.__module__ == "bridge.chat.commands"]
    assert len(ours) == 19
    assert set(ours) <= set(default.handled())


@pytest.mark.parametrize(("type", "name"), [("member.mute", "muted:u7"), ("member.ban", "banned:u7")])
async def test_a_member_s_sanction_is_a_record_that_ends_an_index_entry_and_an_event(type: str, name: str) -> None:
    effects = await handle(type, "room:lobby", {"user": "u7", "seconds": 60}, reason="spam")
    kind = type.partition(".")[2]
    record, index = effects.writes
    assert (record.operation, record.name, record.shared) == ("SET", name, False)
    assert orjson.loads(record.arguments[0]) == {
        "since": MS, "until": MS + 60_000, "reason": "spam", "by": "op", "command_id": "1-2-3", "shadow": False,
    }  # fmt: skip
    assert record.arguments[1:] == (b"PX", b"60000")
    assert (index.operation, index.name, index.shared) == ("ZADD", "sanctions", True)
    assert index.arguments == (repr(float(MS + 60_000)).encode(), f"room:lobby|{kind}|u7".encode())
    channel, told, event = broadcast(effects)
    assert (channel, told) == ("control", "sanction")
    assert (event["kind"], event["user"], event["room"], event["until"]) == (kind, "u7", "lobby", MS + 60_000)
    assert effects.facts == {"until": "2027-01-15T08:01:00.250Z"}


async def test_without_end_is_for_good() -> None:
    effects = await handle("member.mute", "room:lobby", {"user": "u7"})
    assert effects.writes[0].arguments[1:] == ()
    assert effects.writes[1].arguments[0] == b"inf"
    assert effects.facts == {"until": None}


@pytest.mark.parametrize(("state", "lifted"), [({}, False), ({"muted:u7": "{}"}, True)])
async def test_lifting_tells_whether_there_was_something_to_lift(state: dict[str, str], lifted: bool) -> None:
    effects = await handle("member.unmute", "room:lobby", {"user": "u7"}, state)
    assert writes(effects) == [("DEL", "muted:u7"), ("ZREM", "sanctions")]
    assert broadcast(effects)[2]["kind"] == "unmute"
    assert effects.facts == {"lifted": lifted}


def held(**until: int | None) -> dict[str, str]:
    records = {
        kind: {"since": 1, "until": end, "reason": None, "by": "x", "command_id": "1-1-1", "shadow": False}
        for kind, end in until.items()
    }
    return {"sanctions": orjson.dumps(records).decode()}


@pytest.mark.parametrize(
    ("before", "payload", "kinds", "expiry"),
    [
        ({}, {"seconds": 60}, {"mute"}, (b"PX", b"60000")),
        ({}, {}, {"mute"}, ()),
        (held(ban=MS + 90_000), {"seconds": 60}, {"mute", "ban"}, (b"PX", b"90000")),
        (held(ban=MS + 30_000), {"seconds": 60}, {"mute", "ban"}, (b"PX", b"60000")),
        (held(ban=None), {"seconds": 60}, {"mute", "ban"}, ()),
        (held(ban=MS - 1), {"seconds": 60}, {"mute"}, (b"PX", b"60000")),
        (held(mute=None), {"seconds": 60}, {"mute"}, (b"PX", b"60000")),
    ],
    ids=["alone", "alone for good", "ban longer", "ban shorter", "ban for good", "ban over", "replaces"],
)
async def test_a_user_s_record_keeps_what_holds_and_lives_as_long(
    before: dict[str, str], payload: dict[str, Any], kinds: set[str], expiry: tuple[bytes, ...]
) -> None:
    effects = await handle("user.mute", "user:u7", payload, before)
    record = effects.writes[0]
    assert (record.operation, record.name) == ("SET", "sanctions")
    assert set(orjson.loads(record.arguments[0])) == kinds
    assert record.arguments[1:] == expiry


async def test_the_last_sanction_lifted_leaves_no_record() -> None:
    effects = await handle("user.unban", "user:u7", {}, held(ban=None))
    assert writes(effects) == [("DEL", "sanctions"), ("ZREM", "sanctions")]
    assert effects.facts == {"lifted": True}
    kept = await handle("user.unban", "user:u7", {}, held(ban=None, mute=None))
    assert writes(kept) == [("SET", "sanctions"), ("ZREM", "sanctions")]


async def test_a_kick_leaves_its_time_for_nodes_that_miss_the_event() -> None:
    for type, subject, payload, name in (
        ("user.kick", "user:u7", {}, "kicked_at"),
        ("member.kick", "room:lobby", {"user": "u7"}, "kicked:u7"),
    ):
        (write,) = (await handle(type, subject, payload)).writes
        assert (write.name, write.arguments) == (name, (str(MS).encode(), b"PX", b"3600000"))


OPEN = {"title": "T", "state": "open", "slow_mode_s": "5", "opened_at": "1000"}


async def test_opening_makes_a_room_and_opening_again_keeps_what_it_had() -> None:
    made = await handle("room.open", "room:lobby", {})
    assert ("ZADD", "rooms") in writes(made)
    assert made.facts == {"created": True, "title": "lobby"}
    again = await handle("room.open", "room:lobby", {}, {"settings": {**OPEN, "state": "closed"}})
    assert writes(again) == [("HSET", "settings"), ("HSET", "settings")]
    assert broadcast(again) == (None, "room", {"state": "open", "slow_mode_s": 5, "title": "T"})
    renamed = await handle("room.open", "room:lobby", {"title": "New"}, {"settings": OPEN})
    assert renamed.facts == {"created": False, "title": "New"}


@pytest.mark.parametrize(
    ("type", "before", "after"),
    [
        ("room.close", "open", "closed"),
        ("room.close", "frozen", "closed"),
        ("room.close", "closed", "closed"),
        ("room.freeze", "open", "frozen"),
        ("room.freeze", "frozen", "frozen"),
        ("room.freeze", "closed", None),
        ("room.unfreeze", "frozen", "open"),
        ("room.unfreeze", "open", "open"),
        ("room.unfreeze", "closed", None),
    ],
)
async def test_states_of_a_room(type: str, before: str, after: str | None) -> None:
    state = {"settings": {**OPEN, "state": before}}
    if after is None:
        with pytest.raises(Rejected, match="closed"):
            await handle(type, "room:lobby", {}, state)
        return
    assert (await handle(type, "room:lobby", {}, state)).facts == {"state": after, "before": before}


def said(*users: str) -> list[Publication]:
    return [
        Publication("room:lobby", EPOCH, i, "message", MS + i, {"user": user, "name": user, "text": "x"})
        for i, user in enumerate(users, 1)
    ]


async def test_deleting_forgets_ids_that_the_log_has_dropped() -> None:
    log = [*said("u1", "u2", "u1"), Publication("room:lobby", EPOCH, 4, "room", MS, {})]
    before = {"deleted": orjson.dumps({"1-01234567": "someone", "0-01234567": "long ago"}).decode()}
    payload = {"message_ids": ["1-01234567", "2-01234567", "4-01234567", "9-01234567"]}
    effects = await handle("message.delete", "room:lobby", payload, before, log)
    assert orjson.loads(effects.writes[0].arguments[0]) == {"1-01234567": "someone", "2-01234567": "op"}
    assert broadcast(effects)[2]["message_ids"] == ["2-01234567"]
    assert effects.facts == {"deleted": 1}


async def test_deleting_by_user_begins_at_a_time() -> None:
    payload = {"user": "u1", "since": MS + 3}
    effects = await handle("message.delete", "room:lobby", payload, {}, said("u1", "u2", "u1", "u1"))
    assert broadcast(effects)[2]["message_ids"] == ["3-01234567", "4-01234567"]


async def test_clearing_deletes_notices_too_and_an_empty_room_is_not_told() -> None:
    log = [*said("u1"), Publication("room:lobby", EPOCH, 2, "notice", MS, {"level": "info", "text": "x"})]
    assert (await handle("room.clear", "room:lobby", {}, {"settings": OPEN}, log)).facts == {"deleted": 2}
    nothing = await handle("room.clear", "room:lobby", {}, {"settings": OPEN})
    assert (nothing.facts, nothing.writes, nothing.broadcasts) == ({"deleted": 0}, [], [])


async def test_a_whole_log_of_messages_can_be_deleted_at_once() -> None:
    effects = await handle("room.clear", "room:lobby", {}, {"settings": OPEN}, said(*["u1"] * 1100))
    assert effects.facts == {"deleted": 1100}
