"""Issuing one command: what is taken, what is wrong with it, how it is published and told."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import datetime
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from backoffice.api.command_views import Accepted
from backoffice.intake import Body, Reason
from backoffice.operators import Caller, role_to_issue
from backoffice.problems import Fault, from_error, invalid, unreachable
from backoffice.routes import DEADLINE_S, HISTORY, Call, Deed, require
from backoffice.times import Time
from bridge.client import Bridge
from bridge.envelope import MAX_EXPIRES_IN_S, SUBJECT, TYPE, Step
from bridge.errors import BridgeError, Invalid, InvalidPayload, UnknownType
from bridge.publisher import MAX_AHEAD_S, Receipt
from bridge.record import Outcome
from bridge.registry import CommandType, Registry


def _near(at: datetime | None) -> datetime | None:
    if at is not None and not 0 < at.timestamp() <= time.time() + MAX_AHEAD_S:
        raise PydanticCustomError("too_far", "a time within the next year")
    return at


ExpiresIn = Annotated[int, Field(ge=1, le=MAX_EXPIRES_IN_S)]


DeliverAt = Annotated[Time, Field(strict=False), AfterValidator(_near)]


class CommandIn(Body):
    """A command to issue."""

    type: Annotated[str, Field(max_length=64, pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$")]
    subject: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}:[A-Za-z0-9._@+-]{1,64}$")]
    payload: dict[str, Any]
    reason: Reason | None = None
    expires_in: ExpiresIn | None = Field(
        None, description="seconds from now, or from deliver_at, on; then it is not begun any more"
    )
    deliver_at: DeliverAt | None = Field(
        None, description="not begun before, by the server's clock; a time that is past means now"
    )


async def publish(
    bridge: Bridge, caller: Caller, command: CommandIn, key: str, prefix: str = "", dry_run: bool = False
) -> Receipt:
    """Raises Problem; where the outcome is unknown, or later another try may do, it names the key."""
    named = {} if dry_run else {"idempotency_key": key}
    try:
        require(caller, role_to_issue(bridge.registry.get(command.type)))
        publishing = (bridge.publisher.check if dry_run else bridge.publish)(
            command.type,
            command.subject,
            command.payload,
            idempotency_key=key,
            by=caller.name,
            reason=command.reason,
            expires_in=command.expires_in,
            deliver_at=None if command.deliver_at is None else command.deliver_at.timestamp(),
        )
        if bridge.redis.connected:
            return await publishing  # the connection has the same deadline, and a second one costs 4 % of a call
        async with asyncio.timeout(DEADLINE_S):
            return await publishing
    except TimeoutError:
        raise unreachable(**named) from None
    except Invalid as error:
        # The bridge names the first kind of fault it meets, the caller hears of all.
        if all_faults := faults_of(bridge.registry, caller, command.model_dump(), prefix):
            raise invalid(all_faults) from error
        raise from_error(error, prefix=prefix) from error
    except BridgeError as error:
        raise from_error(error, **named) from error


def faults_of(registry: Registry, caller: Caller, raw: Any, prefix: str = "") -> list[Fault]:
    """What the type makes of subject and payload, if there is such a type and the caller may issue it."""
    type_, subject, payload = (raw.get(n) if isinstance(raw, dict) else None for n in ("type", "subject", "payload"))
    if not isinstance(type_, str) or not TYPE.fullmatch(type_):
        return []  # the model said so
    try:
        known = registry.get(type_)
    except UnknownType as error:
        return [Fault(f"{prefix}/type", "unknown_type", str(error))]
    require(caller, role_to_issue(known))
    faults: list[Fault] = []
    if isinstance(subject, str) and SUBJECT.fullmatch(subject) and not subject.startswith(f"{known.subject}:"):
        faults.append(Fault(f"{prefix}/subject", "subject_kind", f"{type_} is for {known.subject}:…"))
    return faults + (_payload_faults(known, payload, prefix) if isinstance(payload, dict) else [])


def _payload_faults(known: CommandType, payload: dict[str, Any], prefix: str) -> list[Fault]:
    try:
        known.validate(orjson.dumps(payload))
    except InvalidPayload as error:
        return [Fault(f"{prefix}/payload{path}", code, message) for path, code, message in error.faults]
    return []


def deed_of(command: CommandIn, key: str) -> Deed:
    detail = {"type": command.type, "payload": command.payload, "idempotency_key": key,
              "expires_in": command.expires_in, "deliver_at": command.deliver_at}  # fmt: skip
    return Deed("commands.issue", command.subject, command.reason, detail)


def remember(call: Call[Any, Any], receipt: Receipt, command: CommandIn) -> None:
    """A row of the history, until the command's own record takes its place.

    Of a repetition too: of the first try nobody was told, perhaps. A row that is there stays as it is.
    """
    issued_at = int(receipt.id.split("-")[1])
    state = "accepted" if command.deliver_at is None else "scheduled"
    call.request.app[HISTORY].accepted(
        Outcome(receipt.id, receipt.type, receipt.subject, command.payload, command.reason, call.caller.name, issued_at,
                None, receipt.idempotency_key, None, state, None, 0, (Step(state, issued_at),))
    )  # fmt: skip


def told(receipt: Receipt) -> str:
    return f"{'duplicate of' if receipt.duplicate else 'accepted'} {receipt.id}"


def accepted(receipt: Receipt) -> Accepted:
    return Accepted(receipt.id, receipt.type, receipt.subject, "accepted", receipt.duplicate, receipt.idempotency_key)


def new_key() -> str:
    return secrets.token_urlsafe(12)
