"""One shard's stream for its holder: read, claim, settle and the rest, as domain values. Every call is one script."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from bridge.config import BridgeSettings
from bridge.connection import Redis
from bridge.effects import Effects
from bridge.envelope import Envelope
from bridge.keys import GROUP, Keys
from bridge.link import Argument
from bridge.record import outcome_from_json
from bridge.replicated import Replicated
from bridge.scripts import Script, script
from bridge.shard_intake import INTAKE_SCRIPTS, ShardIntake, step

READ_AT_MOST = 100  # entries a read; more gains nothing (bench/commands)
PROMOTE_AT_MOST = 100  # scheduled commands a call
SETTLE_AT_MOST = 50  # entries a settle call

SCRIPTS: tuple[Script, ...] = (
    *INTAKE_SCRIPTS,
    *map(script, ("read", "claim", "start", "retry", "settle", "bury", "acquire", "renew", "release", "promote")),
)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to read and settle a shard, as long as no script says otherwise."""

    token: str  # node/boot/epoch/incarnation
    epoch: int

    @property
    def incarnation(self) -> str:
        return self.token.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Occupied:
    """Somebody else holds the shard."""

    by: str  # a node
    for_s: float  # unless its lease is renewed
    token: str


class RawEntry(NamedTuple):
    """An entry as it stands on the stream; an inherited one knows who held it before."""

    id: str
    fields: list[bytes]  # names and values in turn
    inherited_from: str | None = None
    delivered_at: int = 0  # to the previous holder; ms since the epoch, the server's clock
    starts: int | None = None  # that never ended; None: nothing was recorded
    failures: int = 0  # attempts that ended with an error


@dataclass(frozen=True, slots=True)
class Page:
    """What one claim took over."""

    next: str  # first id of the next page, "" = that was all
    now: float  # the server's clock, seconds since the epoch
    entries: list[RawEntry]


class Ended(NamedTuple):
    """A handled entry, ready to be settled."""

    envelope: Envelope
    state: str
    attempts: int
    counted: bool  # whether a starts record exists that has to go
    outcome: bytes
    head: int  # length of the outcome up to its open timeline, where another end can be put
    effects: Effects


class ShardStream(ShardIntake):
    """One shard as its holder sees it; all of this is fenced."""

    def __init__(
        self, redis: Redis, keys: Keys, shard: int, settings: BridgeSettings, replicated: Replicated | None = None
    ) -> None:
        super().__init__(redis, keys, shard, settings, replicated)
        k = keys
        self._record = (
            *self._fence, self._stream, k.settled(shard), k.starts(shard), k.dead(shard), k.requeued(shard),
            k.ended(shard), k.spare(shard), k.moved(shard),
        )  # fmt: skip

    async def acquire(self, owner: str, *, instead_of: str = "", silent_s: float = 0.0) -> Lease | Occupied:
        """Take the shard for ``owner`` (node/boot) if it is free or its own, under a new epoch.

        ``instead_of``: the token of a holder that vanished ``silent_s`` ago; its lease is taken if it was not renewed
        since.
        """
        k, s = self._keys, self.shard
        epoch, token, left_ms = await self._redis.run(
            script("acquire"),
            (k.spare(s), *self._fence, self._stream),
            (owner, GROUP, self._lease_ms, instead_of, int(silent_s * 1000)),
        )
        holder = token.decode()
        return Lease(holder, epoch) if epoch else Occupied(holder.split("/")[0], left_ms / 1000, holder)

    async def renew(self, lease: Lease) -> None:
        """Raises Fenced."""
        await self._redis.run(script("renew"), self._fence, (lease.token, self._lease_ms))

    async def release(self, lease: Lease, unstarted: Mapping[str, int] | None = None) -> None:
        """Give the shard up. ``unstarted`` entries were read and not begun, so nobody presumes another death of theirs.

        Their values are the starts that never ended which they came with.
        """
        known = [part for pair in (unstarted or {}).items() for part in pair]
        keys = (*self._fence[:2], self._keys.starts(self.shard))
        await self._redis.run(script("release"), keys, (lease.token, *known))

    async def holder(self) -> str | None:
        """The lease's token, whoever holds it."""
        token = await self._redis.call("GET", self._fence[0])
        return None if token is None else token.decode()

    async def read(self, lease: Lease, consumer: str, count: int) -> tuple[float, list[RawEntry], float]:
        """The server's clock, up to ``count`` new entries, and seconds until a scheduled one is due (inf = none is).

        Fewer entries than ``count``: the next append rings. Raises Fenced, NoGroup.
        """
        k, s = self._keys, self.shard
        seconds, micros, rows, due_ms = await self._redis.run(
            _READ, (*self._fence, self._stream, k.asleep(s), k.scheduled(s)), (lease.token, GROUP, consumer, count)
        )
        entries = [RawEntry(id.decode(), fields) for id, fields in rows]
        return int(seconds) + int(micros) / 1e6, entries, _seconds(due_ms)

    async def promote(self, lease: Lease) -> tuple[int, float]:
        """Put up to 100 scheduled commands that are due on the stream.

        How many, and seconds until the next is due (inf = none is) or lost ones that go first may be back. Raises
        Fenced, ServerFull.
        """
        k, s = self._keys, self.shard
        moved, due_ms = await self._redis.run(
            script("promote"),
            (*self._fence, self._stream, k.scheduled(s), k.bodies(s), k.moved(s), k.history(s), k.newer(s),
             k.publishers(s)),
            (lease.token, step(), PROMOTE_AT_MOST, self._settings.outcome_seconds),
        )  # fmt: skip
        return moved, _seconds(due_ms)

    async def was_done_after_all(self, id: str) -> bool:
        """Whether nothing is left to do of a command that was dead and sent again before a server lost its death.

        Wherever it did not die again it does not count as sent again any more.
        """
        record = await self._redis.call("GET", self._keys.outcome(self.shard, id))
        state = outcome_from_json(record).state if record is not None else "dead"
        if state == "dead":
            return False
        await self._redis.call("HDEL", self._keys.requeued(self.shard), id)
        return state in ("done", "cancelled")

    async def claim(self, lease: Lease, consumer: str, page: str = "-") -> Page:
        """Take over up to 100 pending entries from ``page`` on, whoever held them. Raises Fenced, NoGroup."""
        k, s = self._keys, self.shard
        following, seconds, micros, rows = await self._redis.run(
            script("claim"),
            (*self._fence, self._stream, k.starts(s)),
            (lease.token, GROUP, consumer, page),
        )
        entries = [
            RawEntry(
                id.decode(), fields, holder.decode(), int(at), None if starts is None else int(starts), int(failed or 0)
            )
            for id, fields, holder, at, starts, failed in rows
        ]
        now = int(seconds) + int(micros) / 1e6
        return Page(following.decode(), now, entries)

    async def start(self, lease: Lease, entry: str, *, starts: int) -> None:
        """Record that an inherited or once failed entry is started; ``starts`` never ended, with this one.

        Raises Fenced.
        """
        await self._redis.run(script("start"), self._counting, (lease.token, entry, starts))

    async def retry(self, lease: Lease, entry: str, *, deaths: int) -> int:
        """Count a failed attempt; how many there were. Raises Fenced."""
        failures: int = await self._redis.run(script("retry"), self._counting, (lease.token, entry, deaths))
        return failures

    def settle(self, lease: Lease, node: str, batch: Sequence[Ended]) -> asyncio.Future[list[int | bytes]]:
        """Settle up to 50. Per entry 1, 0 (not pending any more) or the cause why its effects failed. Raises Fenced."""
        s, config = self.shard, self._settings
        keys: list[Argument] = list(self._record)
        arguments: list[Argument] = [
            lease.token, GROUP, node, config.settled_length, config.outcome_seconds, config.dead_length,
            secrets.token_hex(8), len(batch),
        ]  # fmt: skip
        for ended in batch:
            self._describe(ended, keys, arguments)
        assert len(batch) <= SETTLE_AT_MOST, s
        return self._redis.send_script(_SETTLE, keys, arguments)

    def _describe(self, ended: Ended, keys: list[Argument], arguments: list[Argument]) -> None:
        k, s, envelope, effects = self._keys, self.shard, ended.envelope, ended.effects
        keys.append(k.outcome(s, envelope.id))
        arguments += (envelope.entry_id, envelope.id, ended.attempts, ended.state, int(ended.counted), ended.head,
                      ended.outcome, len(effects.writes))  # fmt: skip
        for write in effects.writes:
            keys.append(k.shared(s, write.name) if write.shared else k.state(s, envelope.subject, write.name))
            arguments += (write.operation, len(write.arguments), *write.arguments)
        arguments.append(len(effects.broadcasts))
        for broadcast in effects.broadcasts:
            name = broadcast.channel or envelope.subject
            keys += (k.channel(s, name), k.log(s, name))
            arguments += (log_length(name, self._settings), name, broadcast.type, broadcast.data)

    async def bury(
        self, lease: Lease, node: str, entry: str, id: str, *, code: str, message: str, attempts: int, outcome: bytes
    ) -> tuple[bool, int]:
        """Whether it was still pending, and how many older letters made room. Raises Fenced."""
        config = self._settings
        buried, dropped = await self._redis.run(
            script("bury"),
            (*self._record, self._keys.outcome(self.shard, id)),
            (lease.token, GROUP, node, config.settled_length, config.outcome_seconds, config.dead_length,
             entry, id, code, message, attempts, outcome),
        )  # fmt: skip
        return bool(buried), dropped

    @property
    def _counting(self) -> tuple[str, ...]:
        return (*self._fence, self._keys.starts(self.shard), self._keys.spare(self.shard))

    @property
    def _lease_ms(self) -> int:
        return int(self._settings.lease_seconds * 1000)


def log_length(channel: str, settings: BridgeSettings) -> int:
    """How many publications a channel's log keeps: a room's log is its history."""
    return settings.history_length if channel.startswith("room:") else settings.channel_length


def _seconds(ms: int) -> float:
    return inf if ms < 0 else ms / 1000


_READ, _SETTLE = script("read"), script("settle")
