"""A dead letter as a value: read from its record, and made into a new command or the outcome of the old one."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from bridge.envelope import decode_or_stand_in, read_netstrings
from bridge.record import Failure, outcome_head, outcome_rest

_NOT_REPEATED = frozenset({b"id", b"origin", b"by", b"at", b"idem", b"expires", b"reason", b"unless_done"})


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry as it came, and why it could not be handled."""

    id: str  # the command's
    type: str | None
    subject: str | None
    payload: Any  # None where it is no JSON
    raw: dict[str, str]  # field → base64 of its bytes
    cause_code: str
    cause_message: str
    attempts: int
    node: str
    at: int  # ms since the epoch
    requeued_as: str | None
    applied: int  # effects that were applied before it failed; such a letter is not requeued
    shard: int
    entry_id: str
    fields: tuple[bytes, ...]  # names and values in turn, as they came


def decode(shard: int, entry_id: str, flat: list[bytes], requeued_as: bytes | None) -> DeadLetter:
    """A letter as its stream has it."""
    record = dict(zip(flat[::2], flat[1::2], strict=True))
    fields = read_netstrings(record[b"raw"])
    entry = dict(zip(fields[::2], fields[1::2], strict=True))
    return DeadLetter(
        id=record[b"id"].decode(),
        type=_text(entry.get(b"type")),
        subject=_text(entry.get(b"subject")),
        payload=_json(entry.get(b"payload")),
        raw={name.decode(errors="backslashreplace"): base64.b64encode(value).decode() for name, value in entry.items()},
        cause_code=record[b"code"].decode(),
        cause_message=record[b"message"].decode(errors="replace"),
        attempts=int(record[b"attempts"]),
        node=record[b"node"].decode(),
        at=int(record[b"at"]),
        requeued_as=requeued_as.decode() if requeued_as else None,
        applied=int(record[b"applied"]),
        shard=shard,
        entry_id=entry_id,
        fields=fields,
    )


def repeated(letter: DeadLetter, by: str, reason: str | None, payload: Mapping[str, Any] | None) -> list[bytes]:
    """The fields of a new command that repeats it, but for its id."""
    kept = [(n, v) for n, v in zip(letter.fields[::2], letter.fields[1::2], strict=True) if n not in _NOT_REPEATED]
    if payload is not None:
        kept = [(n, v) for n, v in kept if n != b"payload"] + [(b"payload", orjson.dumps(payload))]
    kept += [(b"origin", letter.id.encode()), (b"by", by.encode()), (b"at", b"%d" % int(time.time() * 1000))]
    if reason:
        kept.append((b"reason", reason.encode()))
    return [part for pair in kept for part in pair]


def obituary(letter: DeadLetter, requeued_as: str | None = None) -> bytes:
    """Its outcome, for a server that has lost it and its letter."""
    envelope, unreadable = decode_or_stand_in(letter.shard, letter.id.partition("-")[2], letter.fields)
    head = outcome_head(envelope, node=letter.node or None, attempts=letter.attempts, timeline=envelope.first_steps(),
                        readable=unreadable is None)  # fmt: skip
    error = Failure(letter.cause_code, letter.cause_message, letter.at)
    requeued_as = requeued_as or letter.requeued_as
    return head + outcome_rest("dead", letter.at, letter.node or None, error=error, requeued_as=requeued_as)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


def _json(value: bytes | None) -> Any:
    try:
        return None if value is None else orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
