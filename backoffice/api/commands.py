"""Commands: issue one or many, see where one stands, cancel one that nobody has begun."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import asdict
from typing import Annotated, Any

from aiohttp import hdrs, web
from pydantic import Field

from backoffice.api.command_views import Accepted, BatchAnswer, CommandView, WaitedCommand, view
from backoffice.api.issuing import CommandIn, accepted, deed_of, faults_of, new_key, publish, remember, told
from backoffice.intake import BATCH_BYTES, IDEMPOTENCY_HEADER, Body, DryRun, NoQuery, Query, check, idempotency_key
from backoffice.operators import Caller, Role, role_to_issue
from backoffice.problems import Fault, Problem, from_error, invalid, not_found, unreachable
from backoffice.records import RecordsUnavailable
from backoffice.routes import (
    BRIDGE,
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
from bridge.client import Bridge
from bridge.envelope import COMMAND_ID, MAX_DEPTH, MAX_KEY_CHARS
from bridge.errors import BridgeError, IdempotencyMismatch, Invalid, UnknownType
from bridge.receipts import GRACE_S, Answers
from bridge.record import Outcome

MAX_BATCH = 1000
MAX_WAIT_S = 30
KEY = r"^[\x21-\x7e]{1,200}$"

_KEY_HEADER = {IDEMPOTENCY_HEADER: TextIn("1-200 visible ASCII characters; made up if absent. Repeat a request with "
                                          "the same key when its outcome is unknown: it is done once.",
                                          KEY)}  # fmt: skip


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
    key = idempotency_key(call.request.headers, faults) or new_key()
    if faults:
        raise invalid(faults + faults_of(call.bridge.registry, call.caller, call.body.model_dump()))
    deed = deed_of(call.body, key)
    try:
        async with call.audited(deed):
            receipt = await publish(call.bridge, call.caller, call.body, key)
            deed.result = told(receipt)
    except RecordsUnavailable as error:
        raise from_error(error, idempotency_key=key) from error
    remember(call, receipt, call.body)
    if call.query.wait:
        outcome = await _wait(call, receipt.id)
        if outcome is not None and outcome.ended:
            answers = await _answers(call.bridge, outcome)
            shown = view(outcome, WaitedCommand, answers, duplicate=receipt.duplicate)
            return reply(shown, 200, _location(receipt.id))
        return reply(accepted(receipt), 202, _location(receipt.id))
    return reply(accepted(receipt), 200 if receipt.duplicate else 202, _location(receipt.id))


async def issue_batch(call: Call[DryRun, BatchIn]) -> web.Response:
    """Issue up to 1,000 commands; each succeeds or fails by itself.

    The results are in the order of the commands. Commands of one subject are accepted in that order. With `dry_run`
    each has the result that it would have now, but for full backlogs, without an id where it would be a new command.
    """
    if IDEMPOTENCY_HEADER in call.request.headers:
        raise invalid([Fault(f":{IDEMPOTENCY_HEADER}", "invalid", "in a batch each command has its idempotency_key")])
    commands, dry_run = call.body.commands, call.query.dry_run
    lanes: defaultdict[str, list[int]] = defaultdict(list)
    for index, raw in enumerate(commands):
        lanes[str(raw.get("subject")) if isinstance(raw, dict) else ""].append(index)
    firsts: _Firsts | None = {} if dry_run else None
    items = [_Item(call, raw, f"/commands/{index}", firsts) for index, raw in enumerate(commands)]
    deeds = [item.deed for item in items]
    if dry_run:
        deeds = [Deed("commands.issue", "batch", detail={"dry_run": True, "commands": len(commands)})]

    async def run(lane: list[int]) -> None:
        # One after the other, and none after one whose outcome is unknown: the order stays as it was asked for.
        problem: Problem | None = None
        for index in lane:
            problem = await items[index].issue(problem)

    async with call.audited(*deeds):
        async with asyncio.TaskGroup() as group:
            for lane in lanes.values():
                group.create_task(run(lane))
        if dry_run:
            told = Counter(item.result["status"] for item in items)
            deeds[0].result = "would be " + ", ".join(f"{status}: {count}" for status, count in sorted(told.items()))
    return reply({"results": [item.result for item in items], "dry_run": dry_run}, 207)


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
    return faults + faults_of(request.app[BRIDGE].registry, caller, raw)


# Of a dry run: subject and key → where in the batch a command has them first, and the rest of it.
_Firsts = dict[tuple[str, str], tuple[str, dict[str, Any]]]


class _Item:
    """One command of a batch."""

    def __init__(self, call: Call[DryRun, BatchIn], raw: Any, prefix: str, firsts: _Firsts | None) -> None:
        """``firsts`` None: it is no dry run."""
        self._call, self._raw, self._prefix, self._firsts = call, raw, prefix, firsts
        self._faults: list[Fault] = []
        self._command = check(BatchedCommandIn, raw, self._faults, prefix)
        self._key = (self._command.idempotency_key if self._command is not None else None) or new_key()
        unread = Deed("commands.issue", "-")  # what it was for cannot be told
        self.deed = unread if self._command is None else deed_of(self._command, self._key)
        self.result: dict[str, Any] = {}  # its status, with what a single one would be answered or the problem it has

    async def issue(self, before: Problem | None) -> Problem | None:
        """Not tried if Redis was gone ``before``; the answer says whether it is gone now."""
        bridge, caller = self._call.bridge, self._call.caller
        try:
            if self._command is None:
                raise invalid(self._faults + faults_of(bridge.registry, caller, self._raw, self._prefix))
            if before is not None:
                raise unreachable(doubt=None, **({} if self._firsts is not None else {"idempotency_key": self._key}))
            if self._firsts is not None:
                self.result = await self._would_be(self._command, self._firsts)
                return None
            receipt = await publish(bridge, caller, self._command, self._key, self._prefix)
        except Problem as problem:
            self.deed.result = problem.result
            self.result = {"status": problem.status, "problem": problem.document(self._call.request[REQUEST_ID])}
            return problem if problem.status == 503 else None
        self.deed.result = told(receipt)
        remember(self._call, receipt, self._command)
        self.result = {"status": 200 if receipt.duplicate else 202, **asdict(accepted(receipt))}
        return None

    async def _would_be(self, command: BatchedCommandIn, firsts: _Firsts) -> dict[str, Any]:
        """Its result in a dry run. Raises Problem."""
        receipt = await publish(self._call.bridge, self._call.caller, command, self._key, self._prefix, dry_run=True)
        body = command.model_dump(exclude={"idempotency_key"})
        first, its_body = firsts.setdefault((command.subject, self._key), (self._prefix, body))
        if body != its_body:
            raise from_error(IdempotencyMismatch(self._key, first), prefix=self._prefix)
        duplicate = receipt.duplicate or first != self._prefix
        return {"status": 200 if duplicate else 202, "id": receipt.id or None, "type": command.type,
                "subject": command.subject, "state": None, "duplicate": duplicate,
                "idempotency_key": command.idempotency_key}  # fmt: skip


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
    """As the servers know it; else as the history does, unless it was lost before it ended."""
    if not COMMAND_ID.fullmatch(id):
        raise not_found(f"command {id[:80]!r}")
    try:
        outcome = await call.bridge.outcome(id)
    except Invalid:  # the shard that it names is none of ours
        outcome = None
    history = call.request.app[HISTORY]
    if outcome is not None:
        history.missing.note(id, known=True)  # a journal may have brought it back since it was asked for
        return outcome
    outcome = await history.get(id)
    if outcome is None or (not outcome.ended and id in history.missing):
        raise not_found(f"command {id}")
    return outcome


def _location(id: str) -> dict[str, str]:
    return {hdrs.LOCATION: f"{PREFIX}/commands/{id}"}


ROUTES = (
    Route("POST", "/commands", issue, Role.MODERATOR, {202: Accepted, 200: Accepted | WaitedCommand}, query=Wait,
          body=CommandIn, deadline_s=None, headers=_KEY_HEADER, explain=explain,
          problems=("unknown_type", "idempotency_mismatch", "overloaded", "not_replicated")),
    Route("POST", "/commands/batch", issue_batch, Role.MODERATOR, {207: BatchAnswer}, query=DryRun, body=BatchIn,
          body_bytes=BATCH_BYTES, nesting=MAX_DEPTH + 3, deadline_s=None),
    Route("GET", "/commands/{id}", show, Role.VIEWER, {200: CommandView}, problems=("not_found",)),
    Route("DELETE", "/commands/{id}", cancel, Role.MODERATOR, {200: CommandView}, problems=("not_found", "conflict")),
)  # fmt: skip
