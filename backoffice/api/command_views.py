"""What the API tells of commands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar, cast

from backoffice.problems import ProblemDocument
from backoffice.times import time_of, time_or_none
from bridge.receipts import Answers
from bridge.record import Outcome

StateName = Literal["scheduled", "accepted", "handling", "retrying", "done", "rejected", "expired", "dead", "cancelled"]
V = TypeVar("V", bound="CommandView")


@dataclass(frozen=True, slots=True)
class Accepted:
    """The command is on its way, or was already."""

    id: str
    type: str
    subject: str
    state: Literal["accepted"]
    duplicate: bool
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class TimelineStep:
    state: StateName
    at: datetime
    node: str | None


@dataclass(frozen=True, slots=True)
class CommandError:
    code: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NodeReceipt:
    """How many sessions of a node the command touched."""

    node: str
    sessions: int


@dataclass(frozen=True, slots=True)
class CommandView:
    """A command, where it stands and how it came there."""

    id: str
    type: str
    subject: str
    payload: Any  # an object, but of an entry that cannot be handled: that has what came, or null
    reason: str | None
    issued_by: str
    issued_at: datetime
    expires_at: datetime | None
    deliver_at: datetime | None
    idempotency_key: str | None
    origin: str | None
    requeued_as: str | None
    state: StateName
    node: str | None
    attempts: int
    timeline: list[TimelineStep]
    result: dict[str, Any] | None
    error: CommandError | None
    receipts: list[NodeReceipt]
    missing_nodes: list[str]


@dataclass(frozen=True, slots=True)
class WaitedCommand(CommandView):
    """A command that ended while its issuer waited."""

    duplicate: bool


@dataclass(frozen=True, slots=True)
class BatchResult:
    """A command of a batch that was accepted, or the problem it has."""

    status: int
    id: str | None = None  # null in a dry run, but of a command that is there already
    type: str | None = None
    subject: str | None = None
    state: Literal["accepted"] | None = None
    duplicate: bool | None = None
    idempotency_key: str | None = None
    problem: ProblemDocument | None = None


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """In the order of the commands."""

    results: list[BatchResult]
    dry_run: bool


def _state(name: str) -> StateName:
    return cast(StateName, name)


def view(outcome: Outcome, kind: type[V], answers: Answers | None = None, **more: Any) -> V:
    """The outcome as the API tells it; ``more`` are the fields that ``kind`` has beyond CommandView."""
    answers = answers or Answers()
    error = outcome.error
    return kind(
        id=outcome.id,
        type=outcome.type,
        subject=outcome.subject,
        payload=outcome.payload,
        reason=outcome.reason,
        issued_by=outcome.issued_by,
        issued_at=time_of(outcome.issued_at),
        expires_at=time_or_none(outcome.expires_at),
        deliver_at=time_or_none(outcome.deliver_at),
        idempotency_key=outcome.idempotency_key,
        origin=outcome.origin,
        requeued_as=outcome.requeued_as,
        state=_state(outcome.state),
        node=outcome.node,
        attempts=outcome.attempts,
        timeline=[TimelineStep(_state(step.state), time_of(step.at), step.node) for step in outcome.timeline],
        result=outcome.result,
        error=None if error is None else CommandError(error.code, error.message, time_of(error.at)),
        receipts=[NodeReceipt(touched.node, touched.sessions) for touched in answers.receipts],
        missing_nodes=list(answers.missing),
        **more,
    )


def plain(outcome: Outcome) -> CommandView:
    """A command as lists tell it: nobody is asked for receipts."""
    return view(outcome, CommandView, Answers((), ()))
