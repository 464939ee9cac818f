"""Scripts of chat state: what a node reads and writes there on its sessions' behalf. Commands' effects are not here.

Every method raises Unreachable (or another BridgeError) where Redis does not answer; nobody guesses then.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import orjson

from bridge.channels import CONTROL, decode_log
from bridge.chat.state import (
    STALE_MS,
    ChatStore,
    Member,
    Sanction,
    SanctionType,
    deleted_from,
    member_from,
    restriction,
    room,
    room_from,
    room_sanction_from,
    user,
    user_sanctions_from,
)
from bridge.config import BridgeSettings
from bridge.envelope import Position
from bridge.errors import BridgeError, Unreachable
from bridge.scripts import Script
from bridge.shard_stream import log_length
from bridge.shards import shard_of
from chatserver.frames import Refused, Since
from chatserver.snapshots import Membership, RoomNow, Said, SessionKey, SessionNow, Snapshot, UserNow

MAX_SESSIONS: Final = 5  # of one user; those of nodes that went away make room, then the oldest
OVERDUE_MS: Final = 15_000  # a session without one for so long is probably over
NONCE_SECONDS: Final = 600
LATE_MS: Final = 1000  # between the reading of a user's sanctions and what they allow
BATCH: Final = 100  # sessions or rooms in one script call
MAX_LISTED: Final = 500  # sessions told to a newcomer; to tell all of a larger room to everybody who joins is too much

_HERE = Path(__file__).parent / "scripts"
_NAMES = ("user", "say", "join", "leave", "keep_members", "present", "keep_sessions")
_MESSAGES = {
    "room_not_found": "there is no such room",
    "room_closed": "the room is closed",
    "room_frozen": "the room is frozen",
    "banned": "you are banned here",
    "muted": "you are muted here",
    "slow_mode": "the room is in slow mode",
    "late": "the answer took too long; try again",
}

T = TypeVar("T")


class Store(ChatStore, Protocol):
    """What a node has of the bridge."""

    @property
    def settings(self) -> BridgeSettings: ...


@cache
def script(name: str) -> Script:
    return Script.load(_HERE / f"{name}.lua")


def scripts() -> list[Script]:
    """All of them, to be loaded at connection."""
    return [script(name) for name in _NAMES]


class ChatState:
    """The node's hand in Redis."""

    def __init__(self, store: Store, node: str) -> None:
        self._store, self._node = store, node
        self._live: frozenset[str] = frozenset()
        self._gone: dict[str, float] = {}  # node → when it went away, loop time

    def nodes_changed(self, live: Iterable[str]) -> None:
        """These nodes take part now. Of one that does no more, the sessions are probably over."""
        before, self._live, now = self._live, frozenset(live), asyncio.get_running_loop().time()
        remembered = {n: at for n, at in self._gone.items() if n not in self._live and now - at < STALE_MS / 1000}
        self._gone = dict.fromkeys(before - self._live - {self._node}, now) | remembered

    async def read_user(self, user_id: str) -> UserNow:
        shard, subject = self._shard(user(user_id)), user(user_id)
        keys = [self._store.keys.state(shard, subject, name) for name in ("sanctions", "kicked_at")]
        now, sanctions, kicked_at = await self._store.redis.run(script("user"), keys, ())
        return _user_now(user_id, int(now), sanctions, kicked_at)

    async def keep_sessions(self, sessions: Sequence[SessionKey]) -> list[SessionNow | BridgeError]:
        """Open sessions or give signs of their life; one answer each, in order, or why there is none."""
        return await self._by_shard(sessions, lambda s: user(s.user), self._keep_sessions)

    async def _keep_sessions(self, shard: int, sessions: Sequence[SessionKey]) -> list[SessionNow]:
        names = self._store.keys
        keys = [names.channel(shard, CONTROL), names.log(shard, CONTROL)]
        length = log_length(CONTROL, self._store.settings)
        gone = f",{','.join(self._gone)},"
        arguments: list[Any] = [STALE_MS, MAX_SESSIONS, length, secrets.token_hex(8), self._node, gone, OVERDUE_MS]
        for s in sessions:
            state = partial(names.state, shard, user(s.user))
            keys += map(state, ("sanctions", "kicked_at", "sessions", "session:rooms", "warned"))
            began = "" if s.began is None else s.began
            arguments += [s.user, s.session, began, orjson.dumps(s.name), orjson.dumps(s.rooms)]
        now, *answers = await self._store.redis.run(script("keep_sessions"), keys, arguments)
        return [
            SessionNow(
                int(began),
                _user_now(s.user, int(now), sanctions, kicked_at),
                replaced == 1,
                _warning(warned, since=int(began)),
            )
            for s, (began, sanctions, kicked_at, replaced, warned) in zip(sessions, answers, strict=True)
        ]

    async def end_session(self, key: SessionKey) -> None:
        shard, subject = self._shard(user(key.user)), user(key.user)
        listed = orjson.dumps([key.session, self._node, key.began, key.name])
        await self._store.redis.call("ZREM", self._store.keys.state(shard, subject, "sessions"), listed)
        await self._store.redis.call("HDEL", self._store.keys.state(shard, subject, "session:rooms"), key.session)

    async def note_rooms(self, key: SessionKey) -> None:
        """Which rooms a session is in, for operators."""
        shard, subject = self._shard(user(key.user)), user(key.user)
        name = self._store.keys.state(shard, subject, "session:rooms")
        await self._store.redis.call("HSET", name, key.session, orjson.dumps(key.rooms))
        await self._store.redis.call("PEXPIRE", name, 2 * STALE_MS)

    async def join(self, room_id: str, member: Member, since: Since | None, newest: int) -> Snapshot:
        """Let a session in. Raises Refused ``room_not_found``, ``room_closed`` or ``banned``."""
        shard, subject, names = self._shard(room(room_id)), room(room_id), self._store.keys
        state = partial(names.state, shard, subject)
        keys = [state(n) for n in ("settings", restriction("ban", member.user), restriction("mute", member.user))]
        keys += [names.channel(shard, subject), names.log(shard, subject)]
        keys += map(state, ("deleted", "present", "present:version"))
        place = ("", "") if since is None else (since.epoch, since.offset)
        arguments = (_listed(member), *place, newest, STALE_MS, MAX_LISTED)
        answer = await self._store.redis.run(script("join"), keys, arguments)
        code, now = answer[0].decode(), int(answer[1])
        if code != "ok":
            ban = room_sanction_from("ban", member.user, room_id, answer[2])
            raise _refused(code, now, [] if ban is None else [ban])
        return _snapshot(room_id, member, now, answer[2:])

    async def leave(self, membership: Membership) -> None:
        shard, subject, names = self._shard(room(membership.room)), room(membership.room), self._store.keys
        keys = [names.state(shard, subject, "present"), names.state(shard, subject, "present:version")]
        await self._store.redis.run(script("leave"), keys, (_listed(membership.member), STALE_MS))

    async def keep_members(self, memberships: Sequence[Membership]) -> list[str | BridgeError]:
        """Signs of life; one answer each, in order: "" stays, "ban" or "kick" has no place there any more.

        Where there is none, the reason stands in its place.
        """
        return await self._by_shard(memberships, lambda m: room(m.room), self._keep_members)

    async def _keep_members(self, shard: int, memberships: Sequence[Membership]) -> list[str]:
        keys: list[str] = []
        arguments: list[Any] = [STALE_MS]
        for m in memberships:
            names = ("present", "present:version", restriction("ban", m.member.user), f"kicked:{m.member.user}")
            keys += [self._store.keys.state(shard, room(m.room), name) for name in names]
            arguments += [_listed(m.member), m.joined]
        answers = await self._store.redis.run(script("keep_members"), keys, arguments)
        return [answer.decode() for answer in answers]

    async def rooms_now(self, known: Mapping[str, bytes]) -> dict[str, RoomNow | BridgeError]:
        """Where the rooms' channels are, and who is there; by room, as ``known``, its versions of presence, are.

        Where there is no answer, the reason stands in its place.
        """
        rooms = list(known)
        found = await self._by_shard(rooms, room, lambda shard, ids: self._rooms_now(shard, ids, known))
        return dict(zip(rooms, found, strict=True))

    async def _rooms_now(self, shard: int, rooms: Sequence[str], known: Mapping[str, bytes]) -> list[RoomNow]:
        keys: list[str] = []
        for subject in map(room, rooms):
            keys += map(partial(self._store.keys.state, shard, subject), ("present", "present:version"))
            keys.append(self._store.keys.channel(shard, subject))
        answers = await self._store.redis.run(script("present"), keys, (STALE_MS, *(known[id] for id in rooms)))
        return [_room_now(*answer) for answer in answers]

    async def say(self, who: Member, room_id: str, text: str, nonce: str | None, user_now: UserNow) -> Said:
        """Publish one message. ``user_now`` must be fresh. Raises Refused with the reason."""
        shard, subject, names = self._shard(room(room_id)), room(room_id), self._store.keys
        keys = [
            names.state(shard, subject, "settings"),
            names.state(shard, subject, restriction("ban", who.user)),
            names.state(shard, subject, restriction("mute", who.user)),
            names.state(shard, subject, f"said:{who.user}"),
            names.state(shard, subject, f"nonce:{who.user}:{nonce}"),
            names.channel(shard, subject),
            names.log(shard, subject),
        ]
        data = orjson.dumps({"user": who.user, "name": who.name, "text": text})
        length = log_length(subject, self._store.settings)
        arguments = (user_now.now, _verdict(user_now), length, secrets.token_hex(8), subject, data,
                     int(nonce is not None), NONCE_SECONDS, LATE_MS)  # fmt: skip
        code, *answer = await self._store.redis.run(script("say"), keys, arguments)
        if code == b"ok":
            id, offset, ts, what = answer
            return Said(id.decode(), int(offset), int(ts), what == b"shadow")
        kind: SanctionType = "ban" if code == b"banned" else "mute"
        both = (room_sanction_from(kind, who.user, room_id, answer[0]), user_now.sanctions.get(kind))
        holding = [s for s in both if s is not None and not s.shadow]
        raise _refused(code.decode(), user_now.now, holding, wait_ms=int(answer[1]) if answer[1] else None)

    async def forget_ended_sanctions(self) -> None:
        """Take out of every shard's index what has ended; the records went by themselves."""
        for shard in range(self._store.shards):
            seconds, _ = await self._store.redis.call("TIME")
            key = self._store.keys.shared(shard, "sanctions")
            await self._store.redis.call("ZREMRANGEBYSCORE", key, "-inf", f"({int(seconds) * 1000}")

    def _shard(self, subject: str) -> int:
        return shard_of(subject, self._store.shards)

    async def _by_shard(
        self, items: Sequence[T], subject: Callable[[T], str], call: Callable[[int, Sequence[T]], Any]
    ) -> list[Any]:
        """``call`` for the items of each shard, in batches; the answers in the order of ``items``.

        What has no answer gets the error in its place. Primaries do not wait for each other, and one that
        is away is asked once, not once for each of its shards.
        """
        places: dict[int, list[int]] = defaultdict(list)
        for place, item in enumerate(items):
            places[self._shard(subject(item))].append(place)
        primaries: dict[object, list[tuple[int, list[int]]]] = defaultdict(list)
        for shard, mine in places.items():
            primary = self._store.redis.placement.owner(self._store.keys.channel(shard, CONTROL))
            primaries[primary] += [(shard, mine[start : start + BATCH]) for start in range(0, len(mine), BATCH)]
        answers: list[Any] = [None] * len(items)

        async def ask(batches: Sequence[tuple[int, list[int]]]) -> None:
            away: Unreachable | None = None
            for shard, batch in batches:
                try:
                    if away is not None:
                        raise away
                    found = await call(shard, [items[place] for place in batch])
                except BridgeError as error:
                    found = [error] * len(batch)
                    away = error if isinstance(error, Unreachable) else None
                for place, answer in zip(batch, found, strict=True):
                    answers[place] = answer

        await asyncio.gather(*map(ask, primaries.values()))
        return answers


def _room_now(epoch: bytes | None, offset: bytes | None, version: bytes, present: list[bytes] | None = None) -> RoomNow:
    place = None if epoch is None or offset is None else Position(epoch.decode(), int(offset))
    return RoomNow(place, version, None if present is None else [member_from(raw) for raw in present])


def _listed(member: Member) -> bytes:
    return orjson.dumps([member.user, member.name, member.node, member.session])


def _user_now(user_id: str, now: int, sanctions: bytes | None, kicked_at: bytes | None) -> UserNow:
    return UserNow(now, user_sanctions_from(user_id, sanctions, now), None if kicked_at is None else int(kicked_at))


def _warning(raw: bytes | None, *, since: int) -> Mapping[str, Any] | None:
    warning = orjson.loads(raw) if raw else None
    return warning if warning and warning.pop("at") >= since else None


def _verdict(user_now: UserNow) -> str:
    if "ban" in user_now.sanctions:
        return "banned"
    mute = user_now.sanctions.get("mute")
    return "" if mute is None else "shadow" if mute.shadow else "muted"


def _refused(code: str, now: int, holding: Sequence[Sanction], *, wait_ms: int | None = None) -> Refused:
    ends = [sanction.until for sanction in holding if sanction.until is not None]
    if ends and code in ("muted", "banned"):  # waiting helps only if each of them ends
        wait_ms = max(*ends, now) - now if len(ends) == len(holding) else None
    return Refused("unavailable" if code == "late" else code, _MESSAGES[code], retry_after_ms=wait_ms)


def _snapshot(room_id: str, member: Member, now: int, answer: Sequence[Any]) -> Snapshot:
    settings, muted, epoch, offset, recovered, publications, deleted, present = answer
    pairs = zip(settings[::2], settings[1::2], strict=True)
    info = room_from(room_id, {name.decode(): value.decode() for name, value in pairs})
    assert info is not None
    decoded = decode_log(publications)
    return Snapshot(
        now,
        info,
        Position(epoch.decode(), int(offset)),
        recovered == 1 and len(decoded) == len(publications),
        decoded,
        deleted_from(deleted),
        room_sanction_from("mute", member.user, room_id, muted),
        present if isinstance(present, int) else [member_from(raw) for raw in present],
    )
