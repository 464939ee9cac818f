"""Commands that could not be handled: page through them, put them back, or discard them."""

from __future__ import annotations

import asyncio
import heapq
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from bridge.connection import Redis
from bridge.envelope import check_subject, netstrings, shard_of_id
from bridge.errors import Invalid, Overloaded, Replaying, UnknownType
from bridge.journal import Row, minted
from bridge.keys import Keys
from bridge.letters import DeadLetter, decode, obituary, repeated
from bridge.record import outcome_from_json
from bridge.registry import Registry
from bridge.replay import Replay
from bridge.shard_stream import ShardStream

CODES = ("undecodable", "unknown_version", "unknown_type", "too_large", "attempts_used_up", "killed_its_node",
         "timed_out", "effects_failed", "superseded")  # fmt: skip
MOST_A_CALL = 1000
_CHUNK = 50
_NO_ENTRY = "0-0"
# Told of each letter as it is done: its id, why it was skipped or None, the new command's id or None.
Note = Callable[[str, str | None, str | None], None]
_CURSOR = re.compile(r"(\d{1,16})-(\d{1,16})-(\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Page:
    items: list[DeadLetter]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class BulkResult:
    matched: int
    done: list[tuple[str, str | None]]  # id, and the new command's where there is one
    skipped: list[tuple[str, str]]  # id, and the code of the reason


class DeadLetters:
    """See the module."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        streams: Sequence[ShardStream],
        registry: Registry,
        replay: Replay | None = None,
    ) -> None:
        self._redis, self._keys, self._streams, self._registry = redis, keys, streams, registry
        self._replay = replay

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        shard: int | None = None,
        type: str | None = None,
        subject: str | None = None,
        code: str | None = None,
        requeued: bool = False,
    ) -> Page:
        """Newest first. ``requeued`` True: only those put back already, False: only those that were not."""
        before = _parse(cursor)

        def fits(letter: DeadLetter) -> bool:
            return (
                (type is None or letter.type == type)
                and (subject is None or letter.subject == subject)
                and (code is None or letter.cause_code == code)
                and (letter.requeued_as is not None) == requeued
            )

        items: list[DeadLetter] = []
        async for letter in self._newest_first(
            [shard] if shard is not None else range(len(self._streams)), before, fits
        ):
            if len(items) == limit:
                last = items[-1]
                return Page(items, f"{last.entry_id}-{last.shard}")
            items.append(letter)
        return Page(items, None)

    async def get(self, id: str) -> DeadLetter | None:
        """The letter of a command, requeued or not."""
        return (await self._find([id])).get(id)

    async def requeue(
        self,
        ids: Sequence[str],
        *,
        by: str,
        reason: str | None,
        payload: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        note: Note | None = None,
    ) -> BulkResult:
        """Put letters back as new commands that name them as their origin; never twice.

        ``payload`` replaces that of the one letter named. ``dry_run``: only say what would happen. ``note`` has what
        was done where this is cut off.
        Skipped: ``not_found``, ``already_requeued``, ``effects_applied``, ``too_large``, ``overloaded``.
        Raises Invalid over 1,000 ids, InvalidPayload.
        """
        _check_count(ids)
        if payload is not None and len(ids) != 1:
            raise Invalid("a payload goes with exactly one id", path="/payload")
        letters = await self._find(ids)
        if payload is not None:
            self._check_payload(letters.get(ids[0]), payload)
        done: list[tuple[str, str | None]] = []
        skipped: list[tuple[str, str]] = []
        for id in dict.fromkeys(ids):
            code, new_id = await self._requeue_one(letters.get(id), by, reason, payload, dry_run)
            if note is not None:
                note(id, code, new_id)
            if code is None:
                done.append((id, new_id))
            else:
                skipped.append((id, code))
        return BulkResult(len(letters), done, skipped)

    async def discard(self, ids: Sequence[str], *, dry_run: bool = False, note: Note | None = None) -> BulkResult:
        """Delete letters for good. ``note`` as above. Skipped: ``not_found``. Raises Invalid over 1,000 ids."""
        _check_count(ids)
        letters = await self._find(ids)
        done: list[tuple[str, str | None]] = []
        skipped: list[tuple[str, str]] = []
        for id in dict.fromkeys(ids):
            letter = letters.get(id)
            gone = letter is not None if dry_run else await self._discard_one(id, letter)
            if note is not None:
                note(id, None if gone else "not_found", None)
            if gone:
                done.append((id, None))
            else:
                skipped.append((id, "not_found"))
        return BulkResult(len(letters), done, skipped)

    async def _requeue_one(
        self, letter: DeadLetter | None, by: str, reason: str | None, payload: Mapping[str, Any] | None, dry_run: bool
    ) -> tuple[str | None, str | None]:
        """Why not, or None; and the new command's id."""
        if letter is None:
            return "not_found", None
        if letter.requeued_as is not None and (self._replay is None or dry_run):
            return "already_requeued", letter.requeued_as
        # With a journal also what is sent again already: perhaps by a try of which nobody was told, which it has then.
        if letter.applied:
            return "effects_applied", None
        fields = repeated(letter, by, reason, payload)
        if len(fields) > 100 or sum(map(len, fields)) > 64 * 1024:
            return "too_large", None
        if dry_run:
            return None, None
        try:
            word, new_id = await self._repeat(letter, fields)
        except (Overloaded, Replaying):
            return "overloaded", None
        return {"requeued": None, "already": "already_requeued", "gone": "not_found"}[word], new_id

    async def _repeat(self, letter: DeadLetter, fields: Sequence[bytes]) -> tuple[str, str | None]:
        stream = self._streams[letter.shard]

        def row(answer: tuple[str, str | None, Sequence[bytes]], incarnation: str) -> Row | None:
            word, id, waiting = answer
            if id is None or not waiting:
                return None
            return Row(letter.shard, incarnation, time.time(), "requeue", id, letter.subject or "", origin=letter.id,
                       letter=letter.entry_id, extra=obituary(letter, id), fields=netstrings(waiting),
                       place=minted(id) if word == "already" else 0.0)  # fmt: skip

        async def run(knows: str = "") -> tuple[str, str | None, Sequence[bytes]]:
            return await stream.requeue(letter.entry_id, letter.id, fields, knows=knows)

        word, id, _ = await (run() if self._replay is None else self._replay.accept(letter.shard, run, row))
        return word, id

    async def _discard_one(self, id: str, letter: DeadLetter | None) -> bool:
        """Where the letter is gone already, by a try of which nobody was told perhaps, the journal has that now."""
        shard = shard_of_id(id)
        if self._replay is None:
            return letter is not None and await self._streams[shard].discard(letter.entry_id, id)
        outcome = await self._dead(id) if letter is None else obituary(letter)
        if outcome is None:
            return False

        async def run(knows: str) -> bool:
            found = letter or (await self._find([id])).get(id)  # the server may be another one now
            return await self._streams[shard].discard(found.entry_id if found else _NO_ENTRY, id, knows=knows)

        def row(gone: bool, incarnation: str) -> Row | None:
            return Row(shard, incarnation, time.time(), "discard", id, letter=letter.entry_id if letter else _NO_ENTRY,
                       extra=outcome) if gone or letter is None else None  # fmt: skip

        return await self._replay.accept(shard, run, row)

    async def _dead(self, id: str) -> bytes | None:
        """The outcome of a command that is dead."""
        shard = shard_of_id(id)
        if shard >= len(self._streams):
            return None
        record: bytes | None = await self._redis.call("GET", self._keys.outcome(shard, id))
        return record if record is not None and outcome_from_json(record).state == "dead" else None

    def _check_payload(self, letter: DeadLetter | None, payload: Mapping[str, Any]) -> None:
        if letter is None or letter.type is None or letter.subject is None:
            return
        try:
            kind = self._registry.get(letter.type)
        except UnknownType:
            return
        check_subject(letter.subject, kind=kind.subject)
        kind.validate(orjson.dumps(payload))

    async def _find(self, ids: Sequence[str]) -> dict[str, DeadLetter]:
        wanted: dict[int, set[str]] = {}
        for id in ids:
            shard = shard_of_id(id)
            if shard < len(self._streams):
                wanted.setdefault(shard, set()).add(id)
        found: dict[str, DeadLetter] = {}
        for shard, names in wanted.items():
            async for letter in self._newest_first([shard], None, lambda letter: letter.id in names):  # noqa: B023
                found.setdefault(letter.id, letter)
                if names <= found.keys():
                    break
        return found

    async def _newest_first(
        self, shards: Sequence[int], before: tuple[int, int, int] | None, fits: Callable[[DeadLetter], bool]
    ) -> AsyncIterator[DeadLetter]:
        """Letters of several shards merged by time, read in chunks as they are wanted."""
        chunks = await asyncio.gather(*(self._chunk(shard, _start(before)) for shard in shards))
        heap = [(_order(chunk[0]), chunk) for chunk in chunks if chunk]
        heapq.heapify(heap)
        while heap:
            _, chunk = heapq.heappop(heap)
            letter = chunk.pop(0)
            if not chunk:
                chunk = await self._chunk(letter.shard, f"({letter.entry_id}")
            if chunk:
                heapq.heappush(heap, (_order(chunk[0]), chunk))
            if (before is None or _order(letter) > before) and fits(letter):
                yield letter

    async def _chunk(self, shard: int, newest: str) -> list[DeadLetter]:
        rows = await self._redis.call("XREVRANGE", self._keys.dead(shard), newest, "-", "COUNT", _CHUNK)
        if not rows:
            return []
        requeued = await self._redis.call("HMGET", self._keys.requeued(shard), *(row[1][1] for row in rows))
        return [decode(shard, row[0].decode(), row[1], new) for row, new in zip(rows, requeued, strict=True)]


def _order(letter: DeadLetter) -> tuple[int, int, int]:
    """Ascending from the newest."""
    ms, _, seq = letter.entry_id.partition("-")
    return -int(ms), -int(seq), letter.shard


def _start(before: tuple[int, int, int] | None) -> str:
    return "+" if before is None else f"{-before[0]}-{-before[1]}"


def _parse(cursor: str | None) -> tuple[int, int, int] | None:
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise Invalid("this cursor was not given by this list", path="?cursor")
    ms, seq, shard = map(int, match.groups())
    return -ms, -seq, shard


def _check_count(ids: Sequence[str]) -> None:
    if len(ids) > MOST_A_CALL:
        raise Invalid(f"at most {MOST_A_CALL} ids a call, not {len(ids)}", path="/ids")
