"""Put commands on their shards and broadcasts on their channels, once per idempotency key."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import orjson

from bridge.envelope import (
    IDEMPOTENCY_KEY,
    MAX_BY_CHARS,
    MAX_DEPTH,
    MAX_EXPIRES_IN_S,
    MAX_REASON_CHARS,
    Envelope,
    check_subject,
    depth,
    netstrings,
    shard_of_id,
)
from bridge.errors import Conflict, Invalid, NotFound, Replaying, UnknownType, Unreachable
from bridge.inspector import Inspector
from bridge.journal import Row, minted
from bridge.record import outcome_from_json, outcome_head, outcome_rest
from bridge.registry import Registry
from bridge.replay import Replay
from bridge.shard_stream import ShardStream
from bridge.shards import shard_of

_TYPES_FRESH_S = 1.0
_TYPES_TRUSTED_S = 30.0  # while the nodes' primary is away; the shards' own may be there
_TYPES_WAIT_S = 0.1  # for a better answer than a trusted one
MAX_AHEAD_S = 366 * 86_400
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Receipt:
    """A command that was accepted: it will end, and ``id`` tells how."""

    id: str
    type: str
    subject: str
    duplicate: bool  # this caller had sent it before with the same idempotency key
    idempotency_key: str


class Publisher:
    """The way in for commands."""

    def __init__(
        self, streams: Sequence[ShardStream], registry: Registry, inspector: Inspector, replay: Replay | None = None
    ) -> None:
        self._streams, self._registry, self._inspector, self._replay = streams, registry, inspector, replay
        self._lacking: dict[str, _Lacking] = {}

    async def publish(
        self,
        type: str,
        subject: str,
        payload: Mapping[str, Any],
        *,
        by: str,
        idempotency_key: str | None = None,
        reason: str | None = None,
        expires_in: float | None = None,
        deliver_at: float | None = None,
    ) -> Receipt:
        """Accept one command. With the same ``by``, subject and key as before: the earlier command's receipt.

        ``deliver_at``: seconds since the epoch, on the server's clock, before which it is not started, at most a
        year ahead; None = now. ``expires_in``: seconds (1 to 604,800) after which, counted from then, it is not
        started any more; None = never.
        ``idempotency_key`` None: one is made up; it is in the receipt. Raises Invalid and its kinds where the
        command is not acceptable, Overloaded, ServerFull, or Unreachable and its kinds, after which the outcome is
        unknown: repeat with the same key.
        """
        key = idempotency_key if idempotency_key is not None else _new_key()
        envelope = await self._checked(type, subject, payload, by, key, reason, expires_in, deliver_at)
        stream, fields = self._streams[envelope.shard], envelope.fields()
        run = partial(
            stream.append if deliver_at is None else partial(stream.schedule, due=deliver_at),
            fields, caller=by, subject=subject, key=key, body=_digest(envelope, expires_in, deliver_at),
            expires_in=expires_in,
        )  # fmt: skip
        if self._replay is None:
            id, duplicate = await run()
        else:
            row = partial(_row, fields, run.keywords, envelope.shard, deliver_at)
            id, duplicate = await self._replay.accept(envelope.shard, lambda knows: run(knows=knows), row)
        return Receipt(id, type, subject, duplicate, key)

    async def check(
        self,
        type: str,
        subject: str,
        payload: Mapping[str, Any],
        *,
        by: str,
        idempotency_key: str | None = None,
        reason: str | None = None,
        expires_in: float | None = None,
        deliver_at: float | None = None,
    ) -> Receipt:
        """What ``publish`` would answer now, or raise; nothing is written.

        But for full backlogs, and for keys whose commands a fail-over took away: ``publish`` takes these anew.

        The receipt's id is empty where the command would be a new one.
        """
        key = idempotency_key if idempotency_key is not None else _new_key()
        envelope = await self._checked(type, subject, payload, by, key, reason, expires_in, deliver_at)
        envelope.fields()  # raises TooLarge
        body = _digest(envelope, expires_in, deliver_at)
        id = await self._streams[envelope.shard].known(caller=by, subject=subject, key=key, body=body)
        return Receipt(id or "", type, subject, id is not None, key)

    async def _checked(
        self,
        type: str,
        subject: str,
        payload: Mapping[str, Any],
        by: str,
        key: str,
        reason: str | None,
        expires_in: float | None,
        deliver_at: float | None,
    ) -> Envelope:
        """The command as it would be sent. Raises Invalid and its kinds."""
        kind = self._registry.get(type)
        check_subject(subject, kind=kind.subject)
        _check(key, by, reason, expires_in)
        _check_time(deliver_at)
        body = _encode(payload)
        kind.validate(body)
        if not self._may_issue(type):
            await self._check_nodes(type)
        return Envelope("", "", shard_of(subject, len(self._streams)), type, subject, body, by,
                        int(time.time() * 1000), reason=reason, idem=key)  # fmt: skip

    async def cancel(self, id: str, *, by: str) -> None:
        """End a command that no node has read yet. Raises NotFound, Conflict, or Replaying: ask again."""
        shard = self._shard_of_id(id)
        envelope = await self._inspector.waiting(shard, id)
        held_s = 0.0
        if envelope is None:  # perhaps the server has lost it
            if self._replay is not None:
                await self._replay.be_current(shard)
            held_s = await self._streams[shard].held()  # others', too, may come back
            envelope = await self._inspector.waiting(shard, id)
        if envelope is None:
            outcome, due = await self._cancelled(shard, id, held_s)
        else:
            now, due = int(await self._inspector.now() * 1000), envelope.due
            head = outcome_head(envelope, node=None, attempts=0, timeline=envelope.first_steps())
            outcome = head + outcome_rest("cancelled", now, None, result={"cancelled_by": by})
        word, _ = await self._cancel(self._streams[shard], id, outcome, due)
        if word == 2:
            raise Conflict(f"command {id} is being handled; it cannot be cancelled any more")
        if word == 0 or envelope is None:
            raise Conflict(f"command {id} has ended")

    async def _cancelled(self, shard: int, id: str, held_s: float) -> tuple[bytes, int | None]:
        """The outcome of one that was cancelled before, perhaps by a try of which nobody was told, and its due time.

        Raises NotFound, Replaying where it may come back for ``held_s``, or Conflict where it ended otherwise.
        """
        record = await self._inspector.record(shard, id)
        if record is None and await self._inspector.command(shard, id) is None:
            raise Replaying(shard, held_s) if held_s else NotFound(f"no command {id}")
        outcome = None if record is None else outcome_from_json(record)
        if record is None or outcome is None or outcome.state != "cancelled":
            raise Conflict(f"command {id} has ended")
        return record, outcome.deliver_at

    async def _cancel(self, stream: ShardStream, id: str, outcome: bytes, due: int | None) -> tuple[int, bytes]:
        if self._replay is None:
            return await stream.cancel(id, outcome)

        def row(answer: tuple[int, bytes], incarnation: str) -> Row | None:
            _, found = answer
            if not found or outcome_from_json(found).state != "cancelled":
                return None
            fields = netstrings([] if due is None else [b"due", b"%d" % due])
            return Row(stream.shard, incarnation, time.time(), "cancel", id, extra=found, fields=fields)

        return await self._replay.accept(stream.shard, lambda knows: stream.cancel(id, outcome, knows=knows), row)

    def _shard_of_id(self, id: str) -> int:
        shard = shard_of_id(id)
        if shard >= len(self._streams):
            raise NotFound(f"no command {id}: there are {len(self._streams)} shards")
        return shard

    def _may_issue(self, type: str) -> bool:
        """Whether it was seen within the last second that every live node knows the type."""
        lacking = self._lacking.get(type)
        return lacking is not None and lacking.look.done() and not lacking.is_old()

    async def _check_nodes(self, type: str) -> None:
        """A type that some live node does not know would die there: refuse it now.

        The answer is kept for a second, and everybody who asks meanwhile shares the one look. A good one
        stands for longer where nobody answers.
        """
        lacking = self._lacking.get(type)
        if lacking is None or lacking.is_old():
            look = asyncio.get_running_loop().create_task(self._inspector.lacking(type))
            lacking = self._lacking[type] = _Lacking(look, lacking)
        if not lacking.look.done():
            await asyncio.wait((lacking.look,), timeout=_TYPES_WAIT_S if lacking.is_trusted() else None)
        try:
            nodes = lacking.look.result()
        except (asyncio.InvalidStateError, Unreachable):
            if not lacking.is_trusted():
                raise
            return
        if nodes:
            raise UnknownType(type, nodes=nodes)


class _Lacking:
    """Which live nodes lack a type, as one look says; ``before`` is the look before it."""

    def __init__(self, look: asyncio.Task[list[str]], before: _Lacking | None) -> None:
        self.look = look
        self._asked = asyncio.get_running_loop().time()
        self._good_at: float = before._good_at if before is not None else -_TYPES_TRUSTED_S
        look.add_done_callback(self._note)

    def _note(self, look: asyncio.Task[list[str]]) -> None:
        if not look.cancelled() and look.exception() is None:
            self._good_at = -_TYPES_TRUSTED_S if look.result() else self._asked

    def is_trusted(self) -> bool:
        """Whether no live node lacked it when the nodes were seen last, not long ago."""
        return asyncio.get_running_loop().time() - self._good_at < _TYPES_TRUSTED_S

    def is_old(self) -> bool:
        """Whether it is worth another look: after a second, and at once where the answer was not good."""
        if not self.look.done():
            return False
        if self.look.cancelled() or self.look.exception() is not None or self.look.result():
            return True
        return asyncio.get_running_loop().time() - self._asked > _TYPES_FRESH_S


def _new_key() -> str:
    return f"{random.getrandbits(128):032x}"


def _check(key: str, by: str, reason: str | None, expires_in: float | None) -> None:
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise Invalid("an idempotency key has 1-200 visible ASCII characters", path=":Idempotency-Key")
    if not by or len(by) > MAX_BY_CHARS:
        raise Invalid("'by' says who issues the command, in 1-100 characters", path="/by")
    if reason is not None and len(reason) > MAX_REASON_CHARS:
        raise Invalid(f"a reason has at most {MAX_REASON_CHARS} characters", path="/reason")
    for name, text in (("by", by), ("reason", reason or "")):
        if not text.isascii() and _SURROGATE.search(text):
            raise Invalid(f"{name!r} holds half a character (a lone surrogate)", path=f"/{name}")
    if expires_in is not None and not 1 <= expires_in <= MAX_EXPIRES_IN_S:
        raise Invalid(f"expires_in is 1 to {MAX_EXPIRES_IN_S} seconds", path="/expires_in")


def _check_time(deliver_at: float | None) -> None:
    # By this machine's clock, which is near enough for a bound; the server's decides when a command is due.
    if deliver_at is not None and not 0 < deliver_at <= time.time() + MAX_AHEAD_S:
        raise Invalid("deliver_at is a time within the next year", path="/deliver_at")


def _encode(payload: Mapping[str, Any]) -> bytes:
    try:
        body = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise Invalid(f"the payload is not JSON: {error}", path="/payload") from None
    brackets = body.count(b"[") + body.count(b"{")  # it nests no deeper than that
    if brackets > MAX_DEPTH and depth(orjson.loads(body)) > MAX_DEPTH:
        raise Invalid(f"the payload nests deeper than {MAX_DEPTH}", path="/payload")
    return body


def _row(
    fields: list[bytes],
    given: Mapping[str, Any],
    shard: int,
    due: float | None,
    answer: tuple[str, bool],
    incarnation: str,
) -> Row:
    """What the journal keeps: the entry as the script has written it."""
    (id, duplicate), whole = answer, list(fields)
    from_ms = int(id.split("-")[1]) if due is None else int(due * 1000)
    whole += (b"id", id.encode())
    if due is not None:
        whole += (b"due", b"%d" % from_ms)
    if given["expires_in"] is not None:
        whole += (b"expires", b"%d" % (from_ms + int(given["expires_in"] * 1000)))
    return Row(
        shard, incarnation, time.time(), "append" if due is None else "schedule", id, given["subject"], given["caller"],
        given["key"], given["body"], extra=b"" if due is None else b"%d" % from_ms, fields=netstrings(whole),
        place=minted(id) if duplicate else 0.0,
    )  # fmt: skip


def _digest(envelope: Envelope, expires_in: float | None, deliver_at: float | None) -> str:
    body = orjson.dumps((envelope.type, envelope.reason, expires_in, deliver_at))
    return blake2b(body + envelope.payload, digest_size=12).hexdigest()
