"""One shard's stream: append, read, settle and the rest, as domain values. Every call is one script."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from bridge.config import BridgeSettings
from bridge.connection import Redis
from bridge.effects import Effects
from bridge.envelope import Envelope, read_netstrings
from bridge.errors import IdempotencyMismatch, NotReplicated, OtherHistory, Overloaded, Replaying
from bridge.journal import Row
from bridge.keys import GROUP, Keys
from bridge.link import Argument
from bridge.replicated import Replicated
from bridge.scripts import Script, script

READ_AT_MOST = 100  # entries a read; more gains nothing (bench/commands)
PROMOTE_AT_MOST = 100  # scheduled commands a call
SETTLE_AT_MOST = 50  # entries a settle call
PUBLISHER_SILENT_MS = 30_000  # as history.lua has it
_REFUSALS = frozenset({b"held", b"other", b"overloaded", b"mismatch", b"gone"})  # nothing was written
RETRY_AFTER_S = 1.0  # what an overloaded shard tells its callers

SCRIPTS: tuple[Script, ...] = tuple(
    script(name)
    for name in ("append", "read", "claim", "start", "retry", "settle", "bury", "cancel", "acquire", "renew", "release",
                 "requeue", "discard", "schedule", "promote", "duplicate", "vouch", "replay")
)  # fmt: skip


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


class ShardStream:
    """One shard, seen by producers (append, cancel, requeue) and by its holder (the rest, all fenced)."""

    def __init__(
        self, redis: Redis, keys: Keys, shard: int, settings: BridgeSettings, replicated: Replicated | None = None
    ) -> None:
        self.shard = shard
        self._replicated = replicated  # for what producers write, where replicas must have it
        self._redis, self._keys, self._settings = redis, keys, settings
        k = keys
        self._fence = (k.lease(shard), k.epoch(shard), k.incarnation(shard))
        self._stream = k.commands(shard)
        self._record = (
            *self._fence, self._stream, k.settled(shard), k.starts(shard), k.dead(shard), k.requeued(shard),
            k.ended(shard), k.spare(shard), k.moved(shard),
        )  # fmt: skip
        self._waking = (
            k.asleep(shard), k.incarnation(shard), k.lease(shard), k.ring(shard), k.scheduled(shard), k.history(shard),
            k.publishers(shard), k.newer(shard),
        )  # fmt: skip

    # producers

    async def append(
        self,
        fields: Sequence[bytes],
        *,
        caller: str,
        subject: str,
        key: str,
        body: str,
        expires_in: float | None,
        knows: str = "",
    ) -> tuple[str, bool]:
        """The command's id, and whether the key was known already.

        ``knows``: the incarnation on which this publisher has put back what it may have lost; "" without a journal.
        Raises IdempotencyMismatch, Overloaded, Replaying, OtherHistory.
        """
        k, s, limit = self._keys, self.shard, self._settings.backlog_limit
        idem = k.idem(s, caller, subject, key)
        while True:
            word, value = await self._write(
                _APPEND,
                (self._stream, idem, *self._waking),
                (limit, self._settings.outcome_seconds, body, _step(), s, _ms(expires_in), knows, *fields),
            )  # fmt: skip
            if word == b"accepted":
                return value.decode(), False
            if await self._stands(word, value, idem, key):
                return value.decode(), True

    async def schedule(
        self,
        fields: Sequence[bytes],
        *,
        caller: str,
        subject: str,
        key: str,
        body: str,
        expires_in: float | None,
        due: float,
        knows: str = "",
    ) -> tuple[str, bool]:
        """As ``append``, for a command that is kept until ``due`` (seconds since the epoch, the server's clock)."""
        k, s, limit = self._keys, self.shard, self._settings.backlog_limit
        idem = k.idem(s, caller, subject, key)
        while True:
            word, value = await self._write(
                script("schedule"),
                (self._stream, idem, k.scheduled(s), k.bodies(s), self._fence[2], self._fence[0], k.ring(s),
                 k.history(s), k.publishers(s)),
                (limit, self._settings.outcome_seconds, body, _step(), s, _ms(expires_in), knows, _ms(due), *fields),
            )  # fmt: skip
            if word == b"accepted":
                return value.decode(), False
            if await self._stands(word, value, idem, key):
                return value.decode(), True

    async def _stands(self, word: bytes, value: Any, idem: str, key: str) -> bool:
        """Whether a known key's command is still there; if not, its key is free now. Raises what the refusal means."""
        k, s = self._keys, self.shard
        match word:
            case b"duplicate":
                keys = (idem, k.outcome(s, value.decode()), self._stream, k.scheduled(s), k.moved(s), k.requeued(s))
                stands: int = await self._write(script("duplicate"), keys, (value, self._settings.outcome_seconds))
                return bool(stands)
            case b"mismatch":
                raise IdempotencyMismatch(key, value.decode())
        self._refuse(word, value)
        return False

    def _refuse(self, word: bytes, value: Any) -> None:
        match word:
            case b"held":
                raise Replaying(self.shard, value / 1000)
            case b"other":
                raise OtherHistory(value.decode())
            case b"overloaded":
                raise Overloaded(value, self._settings.backlog_limit, RETRY_AFTER_S)

    async def cancel(self, id: str, outcome: bytes, *, knows: str = "") -> int:
        """1 cancelled, 0 not there any more, 2 delivered already. Raises OtherHistory."""
        k, s, config = self._keys, self.shard, self._settings
        answer = await self._write(
            script("cancel"),
            (self._stream, k.settled(s), k.outcome(s, id), k.ended(s), k.scheduled(s), k.bodies(s), k.moved(s),
             k.requeued(s)),
            (GROUP, id, outcome, config.settled_length, config.outcome_seconds, knows),
        )  # fmt: skip
        return self._number(answer)

    async def requeue(
        self, letter: str, command_id: str, fields: Sequence[bytes], *, knows: str = ""
    ) -> tuple[str, str | None]:
        """``requeued`` or ``already`` with the new command's id, or ``gone``. Raises as ``append`` does."""
        k, s, config = self._keys, self.shard, self._settings
        word, *value = await self._write(
            script("requeue"),
            (k.dead(s), k.requeued(s), self._stream, k.asleep(s), self._fence[2], self._fence[0], k.ring(s),
             k.scheduled(s), k.history(s), k.publishers(s), k.newer(s)),
            (letter, command_id, s, _step(), config.backlog_limit, config.outcome_seconds, knows, *fields),
        )  # fmt: skip
        self._refuse(word, value[0] if value else None)
        return word.decode(), value[0].decode() if value else None

    async def discard(self, letter: str, command_id: str, *, knows: str = "") -> bool:
        """Raises OtherHistory."""
        k, s = self._keys, self.shard
        answer = await self._write(script("discard"), (k.dead(s), k.requeued(s)), (letter, command_id, knows))
        return bool(self._number(answer))

    def _number(self, answer: int | list[Any]) -> int:
        if isinstance(answer, list):
            self._refuse(*answer)
        return int(answer)  # type: ignore[arg-type]

    async def _write(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        if self._replicated is None:
            return await self._redis.run(script, keys, arguments)
        answer, replicas = await self._replicated.run(script, keys, arguments)
        refused = isinstance(answer, list) and answer[0] in _REFUSALS
        if replicas < self._replicated.wanted and not refused:
            raise NotReplicated(replicas, self._replicated.wanted)
        return answer

    # publishers with a journal

    async def vouch(self, publisher: str, incarnation: str, *, leaving: bool = False) -> str:
        """Give a sign of life, and say on which incarnation everything was put back; the server's.

        ``*``: there was nothing to put back. ``-``: on none. ``""``: it will never have anything to put back.
        ``leaving``: nobody need wait for it, but it may come later.
        """
        silent_for = PUBLISHER_SILENT_MS + 1 if leaving else 0
        current = await self._redis.run(
            script("vouch"), (self._keys.publishers(self.shard),),
            (publisher, incarnation, self._settings.outcome_seconds, silent_for),
        )  # fmt: skip
        return str(current.decode())

    async def replay(self, incarnation: str, rows: Sequence[Row]) -> list[str]:
        """Put back what this server lacks, in this order. What became of each is in ``replay.lua``.

        Raises OtherHistory where the server has another incarnation; what was put back stays.
        """
        k, s, config = self._keys, self.shard, self._settings
        keys: list[Argument] = [
            k.spare(s), self._stream, k.settled(s), k.scheduled(s), k.bodies(s), k.moved(s), k.dead(s), k.requeued(s),
            k.newer(s), self._fence[2], self._fence[0], k.asleep(s), k.ring(s), k.ended(s),
        ]  # fmt: skip
        arguments: list[Argument] = [
            incarnation, GROUP, _step(), config.outcome_seconds, config.settled_length, config.dead_length, len(rows),
        ]  # fmt: skip
        for row in rows:
            keys.append(k.idem(s, row.caller, row.subject, row.key) if row.key else k.spare(s))
            keys.append(k.outcome(s, row.id))
            keys.append(k.outcome(s, row.origin) if row.origin else k.spare(s))
            fields = read_netstrings(row.fields)
            arguments += (row.operation, row.id, row.body, row.origin, row.letter, row.extra, len(fields), *fields)
        answers = await self._redis.run(script("replay"), keys, arguments)
        if answers[:1] == [b"other"]:
            raise OtherHistory(answers[1].decode())
        return [answer.decode() for answer in answers]

    async def have_ended(self, ids: Sequence[str]) -> list[bool]:
        """Which of these commands have an outcome."""
        keys = [self._keys.outcome(self.shard, id) for id in ids]
        if await self._redis.call("EXISTS", *keys) == len(set(keys)):
            return [True] * len(keys)
        return [bool(found) for found in await asyncio.gather(*(self._redis.call("EXISTS", key) for key in keys))]

    # the holder

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

        How many, and seconds until the next is due (inf = none is). Raises Fenced, ServerFull.
        """
        k, s = self._keys, self.shard
        moved, due_ms = await self._redis.run(
            script("promote"),
            (*self._fence, self._stream, k.scheduled(s), k.bodies(s), k.moved(s)),
            (lease.token, _step(), PROMOTE_AT_MOST),
        )
        return moved, _seconds(due_ms)

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


def _ms(seconds: float | None) -> int | str:
    return "" if seconds is None else int(seconds * 1000)


def _seconds(ms: int) -> float:
    return inf if ms < 0 else ms / 1000


def _step() -> int:
    return random.getrandbits(20) or 1


_APPEND, _READ, _SETTLE = script("append"), script("read"), script("settle")
