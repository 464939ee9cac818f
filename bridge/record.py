"""What is known of one command: where it stands, its timeline, what came of it; and its form in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from bridge.envelope import ENDED, Envelope, State, Step


@dataclass(frozen=True, slots=True)
class Failure:
    code: str
    message: str
    at: int  # ms since the epoch


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a command stands, with its whole envelope. Times are ms since the epoch."""

    id: str
    type: str
    subject: str
    payload: Any
    reason: str | None
    issued_by: str
    issued_at: int
    expires_at: int | None
    idempotency_key: str | None
    origin: str | None
    state: State
    node: str | None  # who handles or handled it; None until delivered
    attempts: int
    timeline: tuple[Step, ...]
    result: dict[str, Any] | None = None
    error: Failure | None = None
    requeued_as: str | None = None
    deliver_at: int | None = None
    control: bool = False  # it told the control channel of itself, so that nodes write receipts for it

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def outcome_head(
    envelope: Envelope, *, node: str | None, attempts: int, timeline: Sequence[Step], readable: bool = True
) -> bytes:
    """A command's record up to its open timeline; ``outcome_rest`` closes it.

    In two parts, so that the settle script can put another end to it without decoding JSON.
    ``readable`` False leaves the payload out, which may be no JSON.
    """
    record = {
        "id": envelope.id,
        "type": envelope.type,
        "subject": envelope.subject,
        "payload": orjson.Fragment(envelope.payload) if readable else None,
        "reason": envelope.reason,
        "issued_by": envelope.by,
        "issued_at": envelope.issued_at,
        "deliver_at": envelope.due,
        "expires_at": envelope.expires,
        "idempotency_key": envelope.idem,
        "origin": envelope.origin,
        "node": node,
        "attempts": attempts,
        "timeline": [(step.state, step.at, step.node) for step in timeline],
    }
    return orjson.dumps(record)[:-2]


def outcome_rest(
    state: State,
    at: int,
    node: str | None,
    *,
    result: Mapping[str, Any] | None = None,
    error: Failure | None = None,
    control: bool = False,
    requeued_as: str | None = None,
) -> bytes:
    """The end of a record that ``outcome_head`` began with at least one step."""
    return b',%b],"state":"%b","result":%b,"error":%b%b%b}' % (
        orjson.dumps((state, at, node)), state.encode(), orjson.dumps(result or None), orjson.dumps(error),
        b',"control":true' if control else b"",
        b',"requeued_as":%b' % orjson.dumps(requeued_as) if requeued_as else b"",
    )  # fmt: skip


def outcome_from_json(data: bytes, *, requeued_as: str | None = None) -> Outcome:
    # A node of a later version may tell more.
    record = {name: value for name, value in orjson.loads(data).items() if name in Outcome.__slots__}
    record["timeline"] = tuple(Step(*step) for step in record["timeline"])
    record["error"] = None if record["error"] is None else Failure(**record["error"])
    record["requeued_as"] = requeued_as or record.get("requeued_as")
    return Outcome(**record)
