"""Commands: issue one or many, see where one stands, cancel one that nobody has begun."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import orjson
from aiohttp import hdrs, web
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from backoffice.api.command_views import Accepted, BatchAnswer, CommandView, WaitedCommand, view
from backoffice.intake import BATCH_BYTES, IDEMPOTENCY_HEADER, Body, NoQuery, Query, check, idempotency_key
from backoffice.operators import Caller, Role, role_to_issue
from backoffice.problems import Fault, Problem, from_error, invalid, not_found, unreachable
from backoffice.routes import (
    BRIDGE,
    DEADLINE_S,
    HISTORY,
    PREFIX,
    REQUEST_ID,
    STOPPING,
    Call,
    Deed,
    Route,
    TextIn,
    reply,
    require,
)
from backoffice.times import Time
from bridge.client import Bridge
from bridge.envelope import (
    COMMAND_ID,
    MAX_DEPTH,
    MAX_EXPIRES_IN_S,
    MAX_KEY_CHARS,
    MAX_REASON_CHARS,
    SUBJECT,
    TYPE,
    Step,
)
from bridge.errors import BridgeError, Invalid, InvalidPayload, UnknownType
from bridge.publisher import MAX_AHEAD_S, Receipt
from bridge.receipts import GRACE_S, Answers
from bridge.record import Outcome
from bridge.registry import CommandType, Registry

MAX_BATCH = 1000
MAX_WAIT_S = 30
KEY = r"^[\x21-\x7e]{1,200}$"

_KEY_HEADER = {IDEMPOTENCY_HEADER: TextIn("1-200 visible ASCII characters; made up if absent. Repeat a request with "
                                          "the same key when its outcome is unknown: it is done once.",
                                          KEY)}  # fmt: skip


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
    reason: Annotated[str, Field(max_length=MAX_REASON_CHARS)] | None = None
    expires_in: ExpiresIn | None = Field(
        None, description="seconds from now, or from deliver_at, on; then it is not begun any more"
    )
    deliver_at: DeliverAt | None = Field(
        None, description="not begun before, by the server's clock; a time that is past means now"
    )


class BatchedCommandIn(CommandIn):
    """A command of a batch."""

    idempotency_key: Annotated[str, Field(pattern=KEY, max_length=MAX_KEY_CHARS)] | None = None


class BatchIn(Body):
    """Commands to issue, in this order."""

    # Each is checked by itself, so that one's faults are its own.
    commands: list[Any] = Field(
        min_length=1,
        max_length=MAX_BATCH,
        json_schema_extra={"items": {"anyOf": [{"$ref": f"#/components/schemas/{BatchedCommandIn.__name__}"}, {}]}},
    )


class Wait(Query):
    """How long to wait for the command's end."""

    wait: float = Field(0, ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="seconds to wait for the end")


async def issue(call: Call[Wait, CommandIn]) -> web.Response:
    """Issue a command.

    202 when it is accepted; 200 when this key is known, or when it ended within `wait` seconds. Then live nodes
    get up to 0.3 seconds more to say how many sessions it touched; who has not by then is in `missing_nodes`.
    """
    faults: list[Fault] = []
    key = idempotency_key(call.request.headers, faults) or _new_key()
    if faults:
        raise invalid(faults + _faults(call.bridge.registry, call.caller, call.body.model_dump()))
    deed = _deed(call.body, key)
    async with call.audited(deed):
        receipt = await _publish(call.bridge, call.caller, call.body, key)
        deed.result = _told(receipt)
    _remember(call, receipt, call.body)
    if call.query.wait:
        outcome = await _wait(call, receipt.id)
        if outcome is not None and outcome.ended:
            answers = await _answers(call.bridge, outcome)
            shown = view(outcome, WaitedCommand, answers, duplicate=receipt.duplicate)
            return reply(shown, 200, _location(receipt.id))
        return reply(_accepted(receipt), 202, _location(receipt.id))
    return reply(_accepted(receipt), 200 if receipt.duplicate else 202, _location(receipt.id))


async def issue_batch(call: Call[NoQuery, BatchIn]) -> web.Response:
    """Issue up to 1,000 commands; each succeeds or fails by itself.

    The results are in the order of the commands. Commands of one subject are accepted in that order.
    """
    if IDEMPOTENCY_HEADER in call.request.headers:
        raise invalid([Fault(f":{IDEMPOTENCY_HEADER}", "invalid", "in a batch each command has its idempotency_key")])
    commands = call.body.commands
    lanes: defaultdict[str, list[int]] = defaultdict(list)
    for index, raw in enumerate(commands):
        lanes[str(raw.get("subject")) if isinstance(raw, dict) else ""].append(index)
    items = [_Item(call, raw, f"/commands/{index}") for index, raw in enumerate(commands)]

    async def run(lane: list[int]) -> None:
        # One after the other, and none after one whose outcome is unknown: the order stays as it was asked for.
        problem: Problem | None = None
        for index in lane:
            problem = await items[index].issue(problem)

    async with call.audited(*(item.deed for item in items)), asyncio.TaskGroup() as group:
        for lane in lanes.values():
            group.create_task(run(lane))
    results = [item.result for item in items]
    return reply({"results": results}, 207)


async def show(call: Call[NoQuery, None]) -> web.Response:
    """Where a command stands, and how it came there.

    `receipts` are the nodes that carried it to their sessions, with how many those were; `missing_nodes` those that
    were there when it ended and have not said so yet: at once if they are dead, until their receipt arrives if not.
    """
    outcome = await _outcome(call, call.part("id"))
    return reply(view(outcome, CommandView, await call.bridge.receipts.read(outcome)))


async def cancel(call: Call[NoQuery, None]) -> web.Response:
    """Cancel a command that no node has begun; otherwise 409."""
    outcome = await _outcome(call, call.part("id"))
    try:
        require(call.caller, role_to_issue(call.bridge.registry.get(outcome.type)))
    except UnknownType:
        require(call.caller, Role.OPERATOR)
    async with call.audited(Deed("commands.cancel", outcome.id, detail={"subject": outcome.subject})):
        outcome = await call.bridge.cancel(outcome.id, by=call.caller.name)
    return reply(view(outcome, CommandView))


def explain(_route: Route, request: web.Request, caller: Caller, raw: Any) -> list[Fault]:
    """What else is wrong with a command that is refused for its shape. Raises Problem if its type is forbidden."""
    faults: list[Fault] = []
    idempotency_key(request.headers, faults)
    return faults + _faults(request.app[BRIDGE].registry, caller, raw)


async def _publish(bridge: Bridge, caller: Caller, command: CommandIn, key: str, prefix: str = "") -> Receipt:
    """Raises Problem; where the outcome is unknown, or later another try may do, it names the key."""
    try:
        require(caller, role_to_issue(bridge.registry.get(command.type)))
        publishing = bridge.publish(
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
        raise unreachable(idempotency_key=key) from None
    except Invalid as error:
        # The bridge names the first kind of fault it meets, the caller hears of all.
        if all_faults := _faults(bridge.registry, caller, command.model_dump(), prefix):
            raise invalid(all_faults) from error
        raise from_error(error, prefix=prefix) from error
    except BridgeError as error:
        raise from_error(error, idempotency_key=key) from error


def _faults(registry: Registry, caller: Caller, raw: Any, prefix: str = "") -> list[Fault]:
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


class _Item:
    """One command of a batch."""

    def __init__(self, call: Call[NoQuery, BatchIn], raw: Any, prefix: str) -> None:
        self._call, self._raw, self._prefix = call, raw, prefix
        self._faults: list[Fault] = []
        self._command = check(BatchedCommandIn, raw, self._faults, prefix)
        self._key = (self._command.idempotency_key if self._command is not None else None) or _new_key()
        unread = Deed("commands.issue", "-")  # what it was for cannot be told
        self.deed = unread if self._command is None else _deed(self._command, self._key)
        self.result: dict[str, Any] = {}  # its status, with what a single one would be answered or the problem it has

    async def issue(self, before: Problem | None) -> Problem | None:
        """Not tried if Redis was gone ``before``; the answer says whether it is gone now."""
        bridge, caller = self._call.bridge, self._call.caller
        try:
            if self._command is None:
                raise invalid(self._faults + _faults(bridge.registry, caller, self._raw, self._prefix))
            if before is not None:
                raise unreachable(idempotency_key=self._key)
            receipt = await _publish(bridge, caller, self._command, self._key, self._prefix)
        except Problem as problem:
            self.deed.result = f"failed {problem.code}"
            self.result = {"status": problem.status, "problem": problem.document(self._call.request[REQUEST_ID])}
            return problem if problem.status == 503 else None
        self.deed.result = _told(receipt)
        _remember(self._call, receipt, self._command)
        self.result = {"status": 200 if receipt.duplicate else 202, **asdict(_accepted(receipt))}
        return None


def _deed(command: CommandIn, key: str) -> Deed:
    detail = {"type": command.type, "payload": command.payload, "idempotency_key": key,
              "expires_in": command.expires_in, "deliver_at": command.deliver_at}  # fmt: skip
    return Deed("commands.issue", command.subject, command.reason, detail)


def _remember(call: Call[Any, Any], receipt: Receipt, command: CommandIn) -> None:
    """A row of the history, until the command's own record takes its place."""
    if receipt.duplicate:
        return
    issued_at = int(receipt.id.split("-")[1])
    state = "accepted" if command.deliver_at is None else "scheduled"
    call.request.app[HISTORY].accepted(
        Outcome(receipt.id, receipt.type, receipt.subject, command.payload, command.reason, call.caller.name, issued_at,
                None, receipt.idempotency_key, None, state, None, 0, (Step(state, issued_at),))
    )  # fmt: skip


def _told(receipt: Receipt) -> str:
    return f"{'duplicate of' if receipt.duplicate else 'accepted'} {receipt.id}"


async def _wait(call: Call[Wait, CommandIn], id: str) -> Outcome | None:
    """The outcome, as soon as the command ended, the time is over or this service stops.

    None: Redis went away meanwhile. The command was accepted all the same.
    """
    waiting = asyncio.ensure_future(call.bridge.outcome(id, wait=call.query.wait))
    stopping = asyncio.ensure_future(call.request.app[STOPPING].wait())
    try:
        await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    except BridgeError:
        return None
    finally:
        waiting.cancel()
        stopping.cancel()


async def _answers(bridge: Bridge, outcome: Outcome) -> Answers:
    """What the nodes said so far; live ones get a moment. It ended all the same if Redis went away meanwhile."""
    try:
        return await bridge.receipts.read(outcome, grace_s=GRACE_S)
    except BridgeError:
        return Answers()


async def _outcome(call: Call[NoQuery, None], id: str) -> Outcome:
    """As the servers know it; else as the history does."""
    if not COMMAND_ID.fullmatch(id):
        raise not_found(f"command {id[:80]!r}")
    try:
        outcome = await call.bridge.outcome(id)
    except Invalid:  # the shard that it names is none of ours
        outcome = None
    outcome = outcome or await call.request.app[HISTORY].get(id)
    if outcome is None:
        raise not_found(f"command {id}")
    return outcome


def _accepted(receipt: Receipt) -> Accepted:
    return Accepted(receipt.id, receipt.type, receipt.subject, "accepted", receipt.duplicate, receipt.idempotency_key)


def _location(id: str) -> dict[str, str]:
    return {hdrs.LOCATION: f"{PREFIX}/commands/{id}"}


def _new_key() -> str:
    return secrets.token_urlsafe(12)


ROUTES = (
    Route("POST", "/commands", issue, Role.MODERATOR, {202: Accepted, 200: Accepted | WaitedCommand}, query=Wait,
          body=CommandIn, deadline_s=None, headers=_KEY_HEADER, explain=explain,
          problems=("unknown_type", "idempotency_mismatch", "overloaded", "not_replicated")),
    Route("POST", "/commands/batch", issue_batch, Role.MODERATOR, {207: BatchAnswer}, body=BatchIn,
          body_bytes=BATCH_BYTES, nesting=MAX_DEPTH + 3, deadline_s=None),
    Route("GET", "/commands/{id}", show, Role.VIEWER, {200: CommandView}, problems=("not_found",)),
    Route("DELETE", "/commands/{id}", cancel, Role.MODERATOR, {200: CommandView}, problems=("not_found", "conflict")),
)  # fmt: skip
