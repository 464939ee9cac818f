"""A read-only view of nodes, shards and single commands, for operators. Never on the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from bridge.connection import Redis
from bridge.envelope import (
    BadEntry,
    Envelope,
    Step,
    decode,
    decode_or_stand_in,
    read_netstrings,
)
from bridge.errors import NoGroup, Unreachable
from bridge.keys import GROUP, Keys
from bridge.record import Outcome, outcome_from_json

Backlogs = dict[int, tuple[int, int]]  # shard → length of its stream, how much of it is pending
_Beats = tuple[float, Any, Any, Any]  # the server's clock; when nodes were heard of, what they told, who drains
T = TypeVar("T")
_Row = tuple[int, int, bytes | None, bytes | None, Any, int, int]  # what a primary tells of one of its shards


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node, as its last heartbeat told."""

    name: str
    boot: str
    version: str
    url: str
    state: str  # live, draining or dead
    heartbeat_age_s: float
    shards: list[int]
    sessions: int
    rooms: int
    types: list[str]
    lag: int  # commands of its shards that nobody has read yet, as far as their primaries answer
    rates: dict[int, float]  # commands handled per second, by shard


@dataclass(frozen=True, slots=True)
class ShardInfo:
    shard: int
    holder: str | None  # a node's name
    epoch: int
    length: int  # accepted and not ended
    lag: int  # of these, not yet read
    pending: int  # of these, read
    oldest_age_s: float | None
    dead: int
    handled_per_s: float
    letters: int  # dead letters, with those that were sent again: what counts against the room for them


@dataclass(frozen=True, slots=True)
class Look:
    """Nodes and shards, as far as their primaries answer."""

    nodes: list[NodeInfo] | None  # by name; None: the primary that knows them does not answer
    shards: dict[int, ShardInfo]  # those whose primary answers, in order; nothing is handled where no node is known


@dataclass(frozen=True, slots=True)
class PendingEntry:
    id: str
    type: str
    subject: str
    node: str
    idle_s: float
    deliveries: int


@dataclass(frozen=True, slots=True)
class PendingPage:
    """A page of what a shard's holder has read."""

    entries: list[PendingEntry]
    next: str | None  # the entry of the stream behind which the list goes on; None: that was all


@dataclass(frozen=True, slots=True)
class Settled:
    """A page of a shard's record of ended commands."""

    first: str | None  # the oldest entry that the record still has
    ended: list[tuple[str, Outcome]]  # with the id of its entry
    withheld: bool = False  # there is more, which is not to be told yet


class Inspector:
    """See the module. Every method raises Unreachable."""

    def __init__(self, redis: Redis, keys: Keys, shards: int, *, dead_after_s: float) -> None:
        self._redis, self._keys, self._shards = redis, keys, shards
        self._dead_after_s = dead_after_s

    async def now(self) -> float:
        """The server's clock, seconds since the epoch."""
        seconds, micros = await self._redis.call("TIME")
        return int(seconds) + int(micros) / 1e6

    async def nodes(self, *, with_lag: bool = True) -> list[NodeInfo]:
        """Every node that was heard of within the last hour, by name."""
        beats, backlogs = await asyncio.gather(self._beats(), self._backlogs() if with_lag else _nothing())
        return self._nodes(beats, backlogs)

    async def lacking(self, type: str) -> list[str]:
        """Live nodes that do not know a command type."""
        return [n.name for n in await self.nodes(with_lag=False) if n.state != "dead" and type not in n.types]

    async def shards(self) -> list[ShardInfo]:
        """All shards, in order; see ``look`` for those whose primary answers."""
        beats, rows = await asyncio.gather(self._beats(), asyncio.gather(*map(self._row, range(self._shards))))
        return list(_infos(dict(enumerate(rows)), beats[0], self._nodes(beats, {})).values())

    async def look(self) -> Look:
        """All nodes and shards whose primary answers. Raises Unreachable only where none does."""
        asked, beats, found = await asyncio.gather(
            _if_answered(self.now()),
            _nobody() if self._away(self._keys.live) else _if_answered(self._beats()),
            asyncio.gather(*(_nobody() if self.away(s) else _if_answered(self._row(s)) for s in range(self._shards))),
        )
        rows = {shard: row for shard, row in enumerate(found) if row is not None}
        if beats is None and not rows:
            raise Unreachable("no primary answers")
        now = await self.now() if asked is None else asked  # whoever did not answer is not connected any more
        nodes = None if beats is None else self._nodes(beats, {shard: row[:2] for shard, row in rows.items()})
        return Look(nodes, _infos(rows, now, nodes or []))

    def away(self, shard: int) -> bool:
        """Whether its primary is not connected while others are: to ask for it would only take time."""
        return self._away(self._keys.commands(shard))

    def _away(self, key: str) -> bool:
        there = any(link is not None for link in self._redis.primaries.values())
        return there and self._redis.link_to(key) is None

    async def _beats(self) -> _Beats:
        k, call = self._keys, self._redis.call
        now, beats, infos, draining = await asyncio.gather(
            self.now(), call("ZRANGE", k.live, 0, -1, "WITHSCORES"), call("HGETALL", k.info), call("HKEYS", k.draining)
        )
        return now, beats, infos, draining

    def _nodes(self, heard: _Beats, backlogs: Backlogs) -> list[NodeInfo]:
        now, beats, infos, draining = heard
        scores = dict(beats)
        return [
            self._node(name, scores[name], record, now, name in draining, backlogs)
            for name, record in sorted(infos.items())
            if name in scores
        ]

    def _node(
        self,
        name: bytes,
        beat_ms: float,
        record: bytes,
        now: float,
        draining: bool,
        backlogs: Backlogs,
    ) -> NodeInfo:
        boot, _, info = record.partition(b" ")
        told = orjson.loads(info)
        age = max(0.0, now - beat_ms / 1000)
        state = "dead" if age >= self._dead_after_s else "draining" if draining else "live"
        shards = told.get("shards", []) if state != "dead" else []
        lag = sum(length - pending for length, pending in (backlogs.get(shard, (0, 0)) for shard in shards))
        rates = told.get("rates", {}) if state != "dead" else {}
        # A node of another version may tell less.
        return NodeInfo(
            name.decode(), boot.decode(), told.get("version", ""), told.get("url", ""), state, age, shards,
            told.get("sessions", 0), told.get("rooms", 0), told.get("types", []), lag,
            {int(shard): rate for shard, rate in rates.items()},
        )  # fmt: skip

    async def _row(self, shard: int) -> _Row:
        k, call = self._keys, self._redis.call
        (length, pending), token, epoch, oldest, letters, requeued = await asyncio.gather(
            self._backlog(shard), call("GET", k.lease(shard)), call("GET", k.epoch(shard)),
            call("XRANGE", k.commands(shard), "-", "+", "COUNT", 1), call("XLEN", k.dead(shard)),
            call("HLEN", k.requeued(shard)),
        )  # fmt: skip
        return length, pending, token, epoch, oldest, letters, requeued

    async def _backlogs(self) -> Backlogs:
        """Of the shards whose primary answers."""
        shards = [shard for shard in range(self._shards) if not self.away(shard)]
        found = await asyncio.gather(*(_if_answered(self._backlog(shard)) for shard in shards))
        return {shard: backlog for shard, backlog in zip(shards, found, strict=True) if backlog is not None}

    async def _backlog(self, shard: int) -> tuple[int, int]:
        """How long its stream is, and how much of that is pending."""
        stream = self._keys.commands(shard)
        length, pending = await asyncio.gather(self._redis.call("XLEN", stream), self._pending_count(stream))
        return length, pending

    async def _pending_count(self, stream: str) -> int:
        try:
            summary = await self._redis.call("XPENDING", stream, GROUP)
        except NoGroup:
            return 0
        return int(summary[0])

    async def pending(self, shard: int, limit: int, after: str | None = None) -> PendingPage:
        """What was read and has not ended, oldest first; behind an entry of the stream, if it goes on."""
        stream = self._keys.commands(shard)
        rows = await self._pending(shard, "-" if after is None else f"({after}", "+", limit)
        found = await asyncio.gather(*(self._redis.call("XRANGE", stream, row[0], row[0]) for row in rows))
        entries = []
        for (id, node, idle_ms, deliveries), entry in zip(rows, found, strict=True):
            if entry:
                told, _ = decode_or_stand_in(shard, id.decode(), entry[0][1])
                entries.append(
                    PendingEntry(told.id, told.type, told.subject, node.decode(), idle_ms / 1000, deliveries)
                )
        return PendingPage(entries, rows[-1][0].decode() if len(rows) == limit else None)

    async def _pending(self, shard: int, first: str, last: str, limit: int) -> Any:
        try:
            return await self._redis.call("XPENDING", self._keys.commands(shard), GROUP, first, last, limit)
        except NoGroup:
            return []  # so nothing was read

    async def waiting(self, shard: int, id: str) -> Envelope | None:
        """A command that has not ended. One that is still scheduled has no entry id."""
        moved, body = await asyncio.gather(
            self._redis.call("HGET", self._keys.moved(shard), id),
            self._redis.call("HGET", self._keys.bodies(shard), id),
        )
        if body is not None:
            return _readable(shard, "", list(read_netstrings(body)))
        entry_id = id.split("-", 1)[1] if moved is None else moved.decode()
        found = await self._redis.call("XRANGE", self._keys.commands(shard), entry_id, entry_id)
        return _readable(shard, entry_id, found[0][1]) if found else None

    async def record(self, shard: int, id: str) -> bytes | None:
        """The outcome of a command that has ended, as it is kept."""
        found: bytes | None = await self._redis.call("GET", self._keys.outcome(shard, id))
        return found

    async def command(self, shard: int, id: str) -> Outcome | None:
        """Where a command stands; None: no such command, or it ended longer ago than outcomes are kept."""
        for _ in range(2):  # it may end between the two looks
            record, requeued_as = await asyncio.gather(
                self.record(shard, id),
                self._redis.call("HGET", self._keys.requeued(shard), id),
            )
            if record is not None:
                return outcome_from_json(record, requeued_as=requeued_as.decode() if requeued_as else None)
            envelope = await self.waiting(shard, id)
            if envelope is not None:
                return await self._unfinished(envelope)
        return None

    async def settled(self, shard: int, after: str, limit: int) -> Settled:
        """What ended in a shard after an entry of its record ("0" = from the beginning), oldest first."""
        stream = self._keys.settled(shard)
        first, rows = await asyncio.gather(
            self._redis.call("XRANGE", stream, "-", "+", "COUNT", 1),
            self._redis.call("XRANGE", stream, f"({after}", "+", "COUNT", limit),
        )
        ended = []
        for entry_id, flat in rows:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            ended.append((entry_id.decode(), outcome_from_json(fields[b"outcome"])))
        return Settled(first[0][0].decode() if first else None, ended)

    async def settled_last(self, shard: int) -> str:
        """Where a shard's record ends now; "0" where it is empty."""
        last = await self._redis.call("XREVRANGE", self._keys.settled(shard), "+", "-", "COUNT", 1)
        return last[0][0].decode() if last else "0"

    async def _unfinished(self, envelope: Envelope) -> Outcome:
        k, s, entry = self._keys, envelope.shard, envelope.entry_id
        if not entry:
            return _unfinished_outcome(envelope, "scheduled", None, 0, tuple(envelope.first_steps()))
        now, counted, rows = await asyncio.gather(
            self.now(),
            self._redis.call("HMGET", k.starts(s), entry, f"{entry}:failed"),
            self._pending(s, entry, entry, 1),
        )
        steps = envelope.first_steps()
        state, node, attempts = "accepted", None, 0
        if rows:
            starts, failed = (int((value or b"0").split()[0]) for value in counted)
            node = rows[0][1].decode()
            state = "retrying" if failed and not starts else "handling"
            attempts = max(1, starts + failed)
            steps.append(Step(state, int(now * 1000) - rows[0][2], node))
        return _unfinished_outcome(envelope, state, node, attempts, tuple(steps))


def _readable(shard: int, entry_id: str, fields: list[bytes]) -> Envelope | None:
    try:
        return decode(shard, entry_id, fields)
    except BadEntry:
        return None


def _unfinished_outcome(
    envelope: Envelope, state: str, node: str | None, attempts: int, timeline: tuple[Step, ...]
) -> Outcome:
    try:
        payload = orjson.loads(envelope.payload)
    except orjson.JSONDecodeError:
        payload = None
    return Outcome(
        envelope.id, envelope.type, envelope.subject, payload, envelope.reason, envelope.by, envelope.issued_at,
        envelope.expires, envelope.idem, envelope.origin, state, node, attempts, timeline, deliver_at=envelope.due,
    )  # fmt: skip


def _infos(rows: Mapping[int, _Row], now: float, nodes: Sequence[NodeInfo]) -> dict[int, ShardInfo]:
    rates = {shard: rate for node in nodes for shard, rate in node.rates.items()}
    infos = {}
    for shard, (length, pending, token, epoch, oldest, letters, requeued) in rows.items():
        age = max(0.0, now - int(oldest[0][0].split(b"-")[0]) / 1000) if oldest else None
        holder = None if token is None else token.decode().split("/", 1)[0]
        infos[shard] = ShardInfo(shard, holder, int(epoch or 0), length, max(0, length - pending), pending, age,
                                 max(0, letters - requeued), rates.get(shard, 0.0), letters)  # fmt: skip
    return infos


async def _if_answered(asking: Awaitable[T]) -> T | None:
    try:
        return await asking
    except Unreachable:
        return None


async def _nobody() -> None:
    return None


async def _nothing() -> Backlogs:
    return {}
