"""Dead letters: commands that could not be handled. Looked at, sent again, or thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from aiohttp import web
from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from backoffice.intake import Body, CommandId, DryRun, NoQuery, Reason
from backoffice.operators import Role
from backoffice.paging import Paged, page
from backoffice.problems import not_found
from backoffice.routes import HISTORY, Call, Deed, ListOf, Route, reply
from backoffice.times import time_of
from bridge.dead_letters import BulkResult, Note
from bridge.errors import Invalid
from bridge.letters import DeadLetter

MAX_BULK = 1000
BULK_SECONDS = 10.0  # for the whole of a bulk call; each step of it has the connection's own deadline

CauseCode = Literal[
    "undecodable", "unknown_version", "unknown_type", "too_large", "attempts_used_up", "killed_its_node", "timed_out",
    "effects_failed", "superseded",
]  # fmt: skip


class Filter(Body):
    """Which dead letters; one without fields means all that were not sent again."""

    shard: Annotated[int, Field(ge=0, le=1023)] | None = None
    type: Annotated[str, Field(max_length=64)] | None = None
    subject: Annotated[str, Field(max_length=97)] | None = None
    code: CauseCode | None = None
    requeued: bool = Field(False, description="those that were sent again, which take room until they are discarded")


def _this(name: str, schema: dict[str, Any], *others: str) -> dict[str, Any]:
    """Of several fields this one, for the document."""
    return {"required": [name], "properties": {name: schema, **{other: {"type": "null"} for other in others}}}


class DiscardIn(Body):
    """Which dead letters to throw away, and why."""

    model_config = ConfigDict(json_schema_extra={
        "oneOf": [_this("ids", {"type": "array"}, "filter", "cursor"), _this("filter", {"type": "object"}, "ids")],
    })  # fmt: skip

    ids: Annotated[list[CommandId], Field(min_length=1, max_length=MAX_BULK)] | None = None
    filter: Filter | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_BULK, description="of those that a filter names")] = MAX_BULK
    cursor: Annotated[str, Field(
        max_length=64, description="goes on: the answer's `next_cursor`", json_schema_extra={"format": "cursor"}
    )] | None = None  # fmt: skip
    reason: Annotated[Reason, Field(min_length=1)]

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise PydanticCustomError("ids_or_filter", "give ids, or filter")
        if self.cursor is not None and self.filter is None:
            raise PydanticCustomError("cursor_of_filter", "a cursor goes with a filter")
        return self


class RequeueIn(DiscardIn):
    """Which dead letters to send again as new commands, and why."""

    model_config = ConfigDict(json_schema_extra={
        "oneOf": [
            _this("ids", {"type": "array"}, "filter", "payload", "cursor"),
            _this("filter", {"type": "object"}, "ids", "payload"),
            {"required": ["ids", "payload"], "properties": {
                "ids": {"type": "array", "maxItems": 1}, "payload": {"type": "object"}, "filter": {"type": "null"},
                "cursor": {"type": "null"}}},
        ],
    })  # fmt: skip

    payload: Annotated[dict[str, Any], Field(description="replaces the command's own; only with one id")] | None = None

    @model_validator(mode="after")
    def _payload_of_one(self) -> Self:
        if self.payload is not None and (self.ids is None or len(self.ids) != 1):
            raise PydanticCustomError("payload_of_one", "a payload goes with exactly one id")
        return self


class DeadQuery(Paged):
    """Which dead letters."""

    shard: int | None = Field(None, ge=0, le=1023)
    type: str | None = Field(None, max_length=64)
    subject: str | None = Field(None, max_length=97)
    code: CauseCode | None = None
    requeued: bool = Field(False, description="those that were sent again, instead of those that were not")


@dataclass(frozen=True, slots=True)
class Cause:
    code: CauseCode
    message: str


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """A command that could not be handled; what could not be read of it is null, and ``raw`` has it as it came."""

    id: str
    type: str | None
    subject: str | None
    payload: Any
    raw: dict[str, str]  # field → base64
    cause: Cause
    attempts: int
    node: str | None
    at: datetime
    requeued_as: str | None


@dataclass(frozen=True, slots=True)
class Moved:
    id: str
    new_id: str | None  # of the command that repeats it; null when it was discarded, or would be


@dataclass(frozen=True, slots=True)
class Skipped:
    id: str
    code: str


@dataclass(frozen=True, slots=True)
class BulkAnswer:
    """What was done with each of the dead letters that matched."""

    matched: int
    done: list[Moved]
    skipped: list[Skipped]
    dry_run: bool
    next_cursor: str | None  # of the further ones that the filter names, which all died before these


async def listing(call: Call[DeadQuery, None]) -> web.Response:
    """Dead letters, newest first."""
    found = await call.bridge.dead.page(**call.query.model_dump())
    return reply(page([view(letter) for letter in found.items], found.next_cursor))


async def show(call: Call[NoQuery, None]) -> web.Response:
    """One dead letter, by its command's id."""
    id = call.part("id")
    try:
        letter = await call.bridge.dead.get(id)
    except Invalid:  # no id at all
        letter = None
    if letter is None:
        raise not_found(f"dead letter {id[:80]!r}")
    return reply(view(letter))


async def requeue(call: Call[DryRun, RequeueIn]) -> web.Response:
    """Send dead letters again, as new commands; a second time does nothing."""
    wanted, dry_run, by = call.body, call.query.dry_run, call.caller.name
    ids, further = await _ids(call, wanted)
    deeds = _deeds("dead_letters.requeue", call, ids)
    async with call.audited(*deeds):
        result = await call.bridge.dead.requeue(
            ids, by=by, reason=wanted.reason, payload=wanted.payload, dry_run=dry_run, note=_note(call, deeds)
        )
    return reply(_answer(result, further, dry_run=dry_run))


async def discard(call: Call[DryRun, DiscardIn]) -> web.Response:
    """Throw dead letters away for good."""
    dry_run = call.query.dry_run
    ids, further = await _ids(call, call.body)
    deeds = _deeds("dead_letters.discard", call, ids)
    async with call.audited(*deeds):
        result = await call.bridge.dead.discard(ids, dry_run=dry_run, note=_note(call, deeds))
    return reply(_answer(result, further, dry_run=dry_run))


def _deeds(action: str, call: Call[DryRun, Any], ids: Sequence[str]) -> list[Deed]:
    """One for each dead letter; one for the call where it matched none, or only asks."""
    detail = call.body.model_dump(exclude_none=True, exclude={"reason"})
    if call.query.dry_run or not ids:
        return [Deed(action, "dead", call.body.reason, {**detail, "dry_run": call.query.dry_run, "matched": len(ids)})]
    shared = {name: value for name, value in detail.items() if name != "ids"}
    return [Deed(action, id, call.body.reason, shared) for id in ids]


def _note(call: Call[DryRun, Any], deeds: Sequence[Deed]) -> Note:
    """One by one, so that those that are done are told although time is up for the rest, or this process is killed."""
    by_id = {deed.target: deed for deed in deeds}

    def note(id: str, code: str | None, new_id: str | None) -> None:
        if (deed := by_id.get(id)) is not None:
            done = "done" if new_id is None else f"done as {new_id}"
            deed.result = done if code is None else f"skipped {code}"
            if code is None and new_id is not None:
                call.request.app[HISTORY].repeated(new_id)
            call.conclude(deed)

    return note


async def _ids(call: Call[DryRun, Any], wanted: DiscardIn) -> tuple[list[str], str | None]:
    """Which they are, and where the rest begins."""
    if wanted.ids is not None:
        return list(dict.fromkeys(wanted.ids)), None
    assert wanted.filter is not None
    found = await call.bridge.dead.page(limit=wanted.limit, cursor=wanted.cursor, **wanted.filter.model_dump())
    return [letter.id for letter in found.items], found.next_cursor


def _answer(result: BulkResult, further: str | None, *, dry_run: bool) -> BulkAnswer:
    done = [Moved(id, new_id) for id, new_id in result.done]
    return BulkAnswer(result.matched, done, [Skipped(id, code) for id, code in result.skipped], dry_run, further)


def view(letter: DeadLetter) -> DeadLetterView:
    """A dead letter as the API tells it."""
    code: Any = letter.cause_code
    return DeadLetterView(
        letter.id,
        letter.type,
        letter.subject,
        letter.payload,
        letter.raw,
        Cause(code, letter.cause_message),
        letter.attempts,
        letter.node,
        time_of(letter.at),
        letter.requeued_as,
    )


ROUTES = (
    Route("GET", "/dead", listing, Role.VIEWER, {200: ListOf(DeadLetterView)}, query=DeadQuery),
    Route("GET", "/dead/{id}", show, Role.VIEWER, {200: DeadLetterView}, problems=("not_found",)),
    Route("POST", "/dead/requeue", requeue, Role.OPERATOR, {200: BulkAnswer}, query=DryRun, body=RequeueIn,
          deadline_s=BULK_SECONDS),
    Route("POST", "/dead/discard", discard, Role.OPERATOR, {200: BulkAnswer}, query=DryRun, body=DiscardIn,
          deadline_s=BULK_SECONDS),
)  # fmt: skip
