"""Names and shapes of chat state, and how both services read it. Handlers and the node's scripts write it.

Of a room:  ``settings`` hash (title, state, slow_mode_s, opened_at; there from room.open on) ·
            ``muted:<user>`` ``banned:<user>`` sanction records, gone when they end · ``kicked:<user>`` ms, 1 h ·
            ``deleted`` JSON message id → by · ``present`` zset of presence members · ``present:version`` counter ·
            ``said:<user>`` slow mode · ``nonce:<user>:<nonce>`` the answer to a say, 10 min
Of a user:  ``sanctions`` JSON kind → record · ``sessions`` zset of session members · ``session:rooms`` hash session →
            JSON list · ``kicked_at`` ms, 1 h · ``warned`` JSON of the last warning's event and when, 1 h
Of a shard: ``rooms`` zset room → opened_at · ``sanctions`` zset of index members, score ``until``: an index, the
            truth is the record
Scores of the two zsets of people are server ms of the last sign of life. All times are ms since the epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol

import orjson

from bridge.channels import Channels
from bridge.connection import Redis
from bridge.keys import Keys
from bridge.shards import shard_of

STALE_MS: Final = 30_000  # someone not refreshed for so long is gone; nodes refresh every 10 s
KICK_SECONDS: Final = 3600  # how long kicks and warnings leave a trace for nodes that missed the event

SanctionType = Literal["mute", "ban"]
RoomState = Literal["open", "frozen", "closed"]


class ChatStore(Protocol):
    """What reading needs; a ``bridge.client.Bridge`` has it."""

    @property
    def redis(self) -> Redis: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def channels(self) -> Channels: ...
    @property
    def shards(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sanction:
    """A mute or ban, of one room or (``room`` None) everywhere."""

    kind: SanctionType
    user: str
    room: str | None
    since: int
    until: int | None  # None = without end
    reason: str | None
    by: str
    command_id: str
    shadow: bool = False  # the user is not to notice

    def record(self) -> dict[str, Any]:
        """How it is stored; the key says the rest."""
        return {
            "since": self.since,
            "until": self.until,
            "reason": self.reason,
            "by": self.by,
            "command_id": self.command_id,
            "shadow": self.shadow,
        }

    def holds(self, now: int) -> bool:
        return self.until is None or self.until > now


@dataclass(frozen=True, slots=True)
class RoomInfo:
    """A room's settings, as ``room.open`` and its like left them."""

    id: str
    title: str
    state: RoomState
    slow_mode_s: int
    opened_at: int
    members: int = 0  # different users present


@dataclass(frozen=True, slots=True)
class Member:
    """One session in one room."""

    user: str
    name: str
    node: str
    session: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One connection of a user."""

    session: str
    node: str
    connected_at: int
    name: str
    rooms: tuple[str, ...] = ()


def room(id: str) -> str:
    return f"room:{id}"


def user(id: str) -> str:
    return f"user:{id}"


def restriction(kind: SanctionType, user_id: str) -> str:
    """Name of a room's state that holds a member's mute or ban."""
    return f"{'muted' if kind == 'mute' else 'banned'}:{user_id}"


def index_member(kind: SanctionType, user_id: str, room_id: str | None) -> str:
    return f"user:{user_id}|{kind}" if room_id is None else f"room:{room_id}|{kind}|{user_id}"


def sanction_from(kind: SanctionType, user_id: str, room_id: str | None, record: Mapping[str, Any]) -> Sanction:
    return Sanction(
        kind,
        user_id,
        room_id,
        since=record["since"],
        until=record["until"],
        reason=record["reason"],
        by=record["by"],
        command_id=record["command_id"],
        shadow=record["shadow"],
    )


def user_sanctions_from(user_id: str, raw: bytes | str | None, now: int) -> dict[SanctionType, Sanction]:
    """A user's ``sanctions``, those that hold at ``now``."""
    records: dict[SanctionType, dict[str, Any]] = orjson.loads(raw) if raw else {}
    found = {kind: sanction_from(kind, user_id, None, record) for kind, record in records.items()}
    return {kind: sanction for kind, sanction in found.items() if sanction.holds(now)}


def room_sanction_from(kind: SanctionType, user_id: str, room_id: str, raw: bytes | str | None) -> Sanction | None:
    return sanction_from(kind, user_id, room_id, orjson.loads(raw)) if raw else None


def deleted_from(raw: bytes | str | None) -> dict[str, str]:
    """Message id → who deleted it."""
    return orjson.loads(raw) if raw else {}


def room_from(id: str, settings: Mapping[str, str]) -> RoomInfo | None:
    """A room from its ``settings``; None if there is no such room."""
    if not settings:
        return None
    state: Any = settings["state"]
    return RoomInfo(id, settings["title"], state, int(settings["slow_mode_s"]), int(settings["opened_at"]))


def member_from(raw: bytes) -> Member:
    return Member(*orjson.loads(raw))


async def read_room(store: ChatStore, id: str) -> RoomInfo | None:
    """A room with its number of members; None if there is no such room."""
    found = await _read_rooms(store, [id])
    return found[0] if found else None


async def list_rooms(store: ChatStore, *, after: str = "", limit: int = 100) -> list[RoomInfo]:
    """Rooms in order of their ids, those that follow ``after``."""
    indexes = await asyncio.gather(
        *(store.redis.call("ZRANGE", store.keys.shared(shard, "rooms"), 0, -1) for shard in range(store.shards))
    )
    ids = sorted(id.decode() for index in indexes for id in index)
    following = [id for id in ids if id > after]
    return await _read_rooms(store, following[:limit])


async def read_members(store: ChatStore, room_id: str) -> list[Member]:
    """Sessions present in a room, by user."""
    now = await server_ms(store)
    raw = await store.redis.call("ZRANGEBYSCORE", state_key(store, room(room_id), "present"), now - STALE_MS, "+inf")
    return sorted(map(member_from, raw), key=lambda m: (m.user, m.session))


async def read_user_sanctions(store: ChatStore, user_id: str) -> list[Sanction]:
    """Everything that holds against a user, everywhere first, then by room."""
    now = await server_ms(store)
    mine = [m for m in await _index(store, now) if m.startswith(f"user:{user_id}|") or m.endswith(f"|{user_id}")]
    found = [s for s in await _read_sanctions(store, mine, now) if s.user == user_id]  # "mute" is an id, too
    return sorted(found, key=place)


async def list_sanctions(store: ChatStore, *, after: str = "", limit: int | None = None) -> list[Sanction]:
    """Mutes and bans that hold now, those without a room first, then by room and user: ``limit`` from a place on."""
    now = await server_ms(store)
    members = sorted((_place_of(member), member) for member in await _index(store, now))
    following = [member for at, member in members if at > after]
    found: list[Sanction] = []
    step = limit or len(following) or 1
    for start in range(0, len(following), step):  # the index may name some that were lifted
        found += await _read_sanctions(store, following[start : start + step], now)
        if limit is not None and len(found) >= limit:
            break
    return found[:limit]


def place(sanction: Sanction) -> str:
    """Where a sanction stands in the list of all; no id has a blank."""
    return f"{sanction.room or ''} {sanction.user} {sanction.kind}"


async def read_sessions(store: ChatStore, user_id: str) -> list[SessionInfo]:
    """A user's connections, oldest first."""
    now = await server_ms(store)
    subject = user(user_id)
    raw, rooms = await asyncio.gather(
        store.redis.call("ZRANGEBYSCORE", state_key(store, subject, "sessions"), now - STALE_MS, "+inf"),
        store.redis.call("HGETALL", state_key(store, subject, "session:rooms")),
    )
    sessions = [SessionInfo(*orjson.loads(member)) for member in raw]
    found = [replace(s, rooms=tuple(orjson.loads(rooms.get(s.session.encode(), b"[]")))) for s in sessions]
    return sorted(found, key=lambda s: (s.connected_at, s.session))


async def server_ms(store: ChatStore) -> int:
    """The server's clock."""
    seconds, micros = await store.redis.call("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def _read_rooms(store: ChatStore, ids: Sequence[str]) -> list[RoomInfo]:
    since, read = await server_ms(store) - STALE_MS, store.redis.call
    settings, present = await asyncio.gather(
        asyncio.gather(*(read("HGETALL", state_key(store, room(id), "settings")) for id in ids)),
        asyncio.gather(*(read("ZRANGEBYSCORE", state_key(store, room(id), "present"), since, "+inf") for id in ids)),
    )
    found: list[RoomInfo] = []
    for id, raw, sessions in zip(ids, settings, present, strict=True):
        info = room_from(id, {name.decode(): value.decode() for name, value in raw.items()})
        if info is not None:
            found.append(replace(info, members=len({member_from(m).user for m in sessions})))
    return found


async def _index(store: ChatStore, now: int) -> list[str]:
    """Members of all shards' indexes of sanctions that may still hold."""
    answers = await asyncio.gather(
        *(
            store.redis.call("ZRANGEBYSCORE", store.keys.shared(shard, "sanctions"), now, "+inf")
            for shard in range(store.shards)
        )
    )
    return [raw.decode() for members in answers for raw in members]


def _place_of(member: str) -> str:
    subject, kind, *user_of_room = member.split("|")
    id = subject.partition(":")[2]
    return f"{id} {user_of_room[0]} {kind}" if user_of_room else f" {id} {kind}"


async def _read_sanctions(store: ChatStore, members: Iterable[str], now: int) -> list[Sanction]:
    """The records behind index members; what ended or was lifted meanwhile is left out."""
    parsed = [member.split("|") for member in members]
    keys = [
        state_key(store, subject, "sanctions" if not rest else restriction(_kind(kind), rest[0]))
        for subject, kind, *rest in parsed
    ]
    records = await asyncio.gather(*(store.redis.call("GET", key) for key in keys))
    found: list[Sanction] = []
    for (subject, kind_text, *rest), raw in zip(parsed, records, strict=True):
        kind, id = _kind(kind_text), subject.partition(":")[2]
        sanction = room_sanction_from(kind, rest[0], id, raw) if rest else user_sanctions_from(id, raw, now).get(kind)
        if sanction is not None and sanction.holds(now):
            found.append(sanction)
    return found


def _kind(text: str) -> SanctionType:
    return "mute" if text == "mute" else "ban"


def state_key(store: ChatStore, subject: str, name: str) -> str:
    """The key of a subject's state."""
    return store.keys.state(shard_of(subject, store.shards), subject, name)
