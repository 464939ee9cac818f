"""One shard as those see it who put something in: append, cancel, requeue and the rest. Every call is one script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from bridge.config import BridgeSettings
from bridge.connection import Redis
from bridge.envelope import read_netstrings
from bridge.errors import IdempotencyMismatch, NotReplicated, OtherHistory, Overloaded, Replaying
from bridge.journal import Row
from bridge.keys import GROUP, Keys
from bridge.link import Argument
from bridge.replicated import Replicated
from bridge.scripts import Script, script

PUBLISHER_SILENT_MS = 30_000  # as history.lua has it
RETRY_AFTER_S = 1.0  # what an overloaded shard tells its callers
_REFUSALS = frozenset({b"held", b"other", b"overloaded", b"mismatch", b"gone"})  # nothing was written

INTAKE_SCRIPTS: tuple[Script, ...] = tuple(
    script(name)
    for name in ("append", "cancel", "requeue", "discard", "schedule", "duplicate", "held", "vouch", "replay")
)


class ShardIntake:
    """See the module. Its holder's side is `shard_stream`."""

    def __init__(
        self, redis: Redis, keys: Keys, shard: int, settings: BridgeSettings, replicated: Replicated | None = None
    ) -> None:
        self.shard = shard
        self._redis, self._keys, self._settings = redis, keys, settings
        self._replicated = replicated  # where replicas must have what is written here
        k = keys
        self._fence = (k.lease(shard), k.epoch(shard), k.incarnation(shard))
        self._stream = k.commands(shard)
        self._waking = (
            k.asleep(shard), k.incarnation(shard), k.lease(shard), k.ring(shard), k.scheduled(shard), k.history(shard),
            k.publishers(shard), k.newer(shard),
        )  # fmt: skip

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
                (limit, self._settings.outcome_seconds, body, step(), s, _ms(expires_in), knows, *fields),
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
                (limit, self._settings.outcome_seconds, body, step(), s, _ms(expires_in), knows, _ms(due), *fields),
            )  # fmt: skip
            if word == b"accepted":
                return value.decode(), False
            if await self._stands(word, value, idem, key):
                return value.decode(), True

    async def known(self, *, caller: str, subject: str, key: str, body: str) -> str | None:
        """The id of the command that has this key. Raises IdempotencyMismatch."""
        found: bytes | None = await self._redis.call("GET", self._keys.idem(self.shard, caller, subject, key))
        if found is None:
            return None
        id, _, digest = found.decode().partition(" ")
        if digest != body:
            raise IdempotencyMismatch(key, id)
        return id

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

    async def cancel(self, id: str, outcome: bytes, *, knows: str = "") -> tuple[int, bytes]:
        """1 cancelled, 0 not there any more, 2 delivered already; and the outcome that it has, b"" = none.

        Raises OtherHistory.
        """
        k, s, config = self._keys, self.shard, self._settings
        word, value = await self._write(
            script("cancel"),
            (self._stream, k.settled(s), k.outcome(s, id), k.ended(s), k.scheduled(s), k.bodies(s), k.moved(s),
             k.requeued(s)),
            (GROUP, id, outcome, config.settled_length, config.outcome_seconds, knows),
        )  # fmt: skip
        self._refuse(word, value)
        return word, value

    async def held(self) -> float:
        """For how many seconds what this server has lost may come back before anything new; 0 = all of it is back."""
        k, s = self._keys, self.shard
        ms: int = await self._redis.run(
            script("held"),
            (k.spare(s), k.history(s), k.publishers(s), self._fence[2], self._fence[0]),
            (self._settings.outcome_seconds,),
        )
        return ms / 1000

    async def requeue(
        self, letter: str, command_id: str, fields: Sequence[bytes], *, knows: str = ""
    ) -> tuple[str, str | None, Sequence[bytes]]:
        """``requeued`` or ``already`` with the new command's id, or ``gone``; and its fields until it has ended.

        Raises as ``append`` does.
        """
        k, s, config = self._keys, self.shard, self._settings
        word, *value = await self._write(
            script("requeue"),
            (k.dead(s), k.requeued(s), self._stream, k.asleep(s), self._fence[2], self._fence[0], k.ring(s),
             k.scheduled(s), k.history(s), k.publishers(s), k.newer(s)),
            (letter, command_id, s, step(), config.backlog_limit, config.outcome_seconds, knows, *fields),
        )  # fmt: skip
        self._refuse(word, value[0] if value else None)
        if word == b"already":
            fields = value[1]
        whole = [*fields, b"id", value[0]] if value and fields else ()
        return word.decode(), value[0].decode() if value else None, whole

    async def discard(self, letter: str, command_id: str, *, knows: str = "") -> bool:
        """Raises OtherHistory."""
        k, s = self._keys, self.shard
        answer = await self._write(script("discard"), (k.dead(s), k.requeued(s)), (letter, command_id, knows))
        if isinstance(answer, list):
            self._refuse(*answer)
        return bool(answer)

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
            script("vouch"), (self._keys.spare(self.shard), self._keys.publishers(self.shard)),
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
            incarnation, GROUP, step(), config.outcome_seconds, config.settled_length, config.dead_length, len(rows),
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

    async def stand(self, commands: Sequence[tuple[str, bool]]) -> list[bool]:
        """Which of these have an outcome, or are scheduled still where ``True`` says that they were."""
        ended = await self._have_ended([id for id, _ in commands])
        due = [id for (id, scheduled), has in zip(commands, ended, strict=True) if scheduled and not has]
        if not due:
            return ended
        times = await self._redis.call("ZMSCORE", self._keys.scheduled(self.shard), *due)
        waiting = {id for id, time in zip(due, times, strict=True) if time is not None}
        return [has or id in waiting for (id, _), has in zip(commands, ended, strict=True)]

    async def _have_ended(self, ids: Sequence[str]) -> list[bool]:
        keys = [self._keys.outcome(self.shard, id) for id in ids]
        if await self._redis.call("EXISTS", *keys) == len(set(keys)):
            return [True] * len(keys)
        return [bool(found) for found in await asyncio.gather(*(self._redis.call("EXISTS", key) for key in keys))]


def step() -> int:
    """By how much an entry's sequence goes on, at random, so that an id that was lost never comes back."""
    return random.getrandbits(20) or 1


def _ms(seconds: float | None) -> int | str:
    return "" if seconds is None else int(seconds * 1000)


_APPEND = script("append")
