"""What a route is, and the frame that every call runs in: who calls, may they, what do they send; then one handler."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import orjson
import structlog
from aiohttp import hdrs, web
from pydantic import ValidationError

from backoffice.access import Access, caller_of, check_same_origin
from backoffice.audit import Audit
from backoffice.audit_rows import Act, Line
from backoffice.history import History
from backoffice.intake import (
    BODY_BYTES,
    Body,
    NoQuery,
    Query,
    check,
    check_encoding,
    check_no_body,
    check_query,
    read_json,
)
from backoffice.operators import Caller, Role
from backoffice.people import Session
from backoffice.problems import Fault, Problem, from_error, invalid, unreachable
from backoffice.records import Records, RecordsUnavailable
from backoffice.throttle import Allowance, Logins
from backoffice.watch import Watch
from bridge.client import Bridge
from bridge.envelope import MAX_DEPTH
from bridge.errors import BridgeError

PREFIX = "/api/v1"
DEADLINE_S = 0.8  # a call that waits for Redis longer is answered 503, which is promised within a second

BRIDGE = web.AppKey("bridge", Bridge)
ACCESS = web.AppKey("access", Access)
RECORDS = web.AppKey("records", Records)
WATCH = web.AppKey("watch", Watch)
HISTORY = web.AppKey("history", History)
AUDIT = web.AppKey("audit", Audit)
LOGINS = web.AppKey("logins", Logins)
STRANGERS = web.AppKey("strangers", Allowance)  # audit entries about callers that nobody knows
REFUSED_READS = web.AppKey("refused_reads", Allowance)  # audit entries about these
REQUEST_ID = web.RequestKey("request_id", str)
LABEL = web.RequestKey("label", str)  # method and path as registered, for the metrics
CALLER = web.RequestKey("caller", Caller)
AUDITED = web.RequestKey("audited", bool)
STOPPING = web.AppKey("stopping", asyncio.Event)  # set when the service begins to stop: whoever waits, answers

_JSON: dict[str, str] = {hdrs.CONTENT_TYPE: "application/json"}
NOBODY = Caller("-", Role.VIEWER)  # of a route that is for everybody

log = structlog.get_logger(__name__)
Q = TypeVar("Q", bound=Query)
B = TypeVar("B", bound=Body | None)


@dataclass(slots=True)
class Deed:
    """Something that a caller wants done, as the audit chain tells it.

    ``result`` is filled in by who does it, as soon as it is known: it holds whatever becomes of the others.
    """

    action: str
    target: str
    reason: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)  # no secrets
    result: str | None = None  # None at the end: done, or whatever went wrong
    intent: Line | None = None  # on disk, and its result is not told yet


class Call(NamedTuple, Generic[Q, B]):
    """One authorised request whose query and body fit their models."""

    request: web.Request
    bridge: Bridge
    caller: Caller
    query: Q
    body: B
    session: Session | None = None  # None: the caller has a token
    parts: Mapping[str, str] | None = None  # None: the request's own; a page asks for what it is about

    def part(self, name: str) -> str:
        """A variable part of the path."""
        return (self.request.match_info if self.parts is None else self.parts)[name]

    def audited(self, *deeds: Deed) -> _Audited:
        """Write to the audit chain that these are about to be done, and afterwards what came of each.

        Whoever changes anything does it inside. Raises RecordsUnavailable, and then nothing has been done.
        """
        self.request[AUDITED] = True
        return _Audited(self.request.app[AUDIT], deeds, [_act(self.request, self.caller.name, deed) for deed in deeds])

    def conclude(self, deed: Deed) -> None:
        """Tell its result now, as the others may take a while and this process may not see their end."""
        if deed.intent is not None and deed.result is not None:
            self.request.app[AUDIT].conclude(deed.intent, deed.result)
            deed.intent = None


class _Audited:
    """A context for each change: a plain one costs a third of one that a generator makes."""

    __slots__ = ("_acts", "_audit", "_deeds")

    def __init__(self, audit: Audit, deeds: Sequence[Deed], acts: Sequence[Act]) -> None:
        self._audit, self._deeds, self._acts = audit, deeds, acts

    async def __aenter__(self) -> None:
        for intent, deed in zip(await self._audit.intend(self._acts), self._deeds, strict=True):
            deed.intent = intent

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        for deed in self._deeds:
            if deed.intent is not None:
                self._audit.conclude(deed.intent, deed.result or ("done" if error is None else failure(error)))


def _act(request: web.Request, by: str, deed: Deed) -> Act:
    address = request.app[ACCESS].proxies.address(request)
    return Act(by, deed.action, deed.target, address, request[REQUEST_ID], deed.reason, deed.detail)


def failure(error: BaseException) -> str:
    """What the audit chain tells of a deed that an error ended."""
    match error:
        case Problem():
            return error.result
        case BridgeError():
            return from_error(error).result
        case asyncio.CancelledError():
            return "unknown: the caller left, or time was up"
        case _:
            return "failed internal"


Handler = Callable[[Any], Awaitable[web.StreamResponse]]
Explain = Callable[["Route", web.Request, Caller, Any], list[Fault]]


@dataclass(frozen=True, slots=True)
class TextIn:
    """What a header or a part of the path may be."""

    description: str
    pattern: str | None = None  # None: any text


@dataclass(frozen=True, slots=True)
class TextOf:
    """An answer that is streamed, in one of these media types."""

    types: tuple[str, ...]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})  # of an event where it is events


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. The first line of the handler's docstring is its summary in the API's document."""

    method: str
    path: str  # below /api/v1
    handler: Handler
    role: Role | None  # None: for everybody
    answers: Mapping[int, Any]  # status → type of the answer, ListOf, or TextOf
    query: type[Query] = NoQuery
    body: type[Body] | None = None
    body_bytes: int = BODY_BYTES
    nesting: int = MAX_DEPTH + 1
    deadline_s: float | None = DEADLINE_S  # None: the handler has its own
    headers: Mapping[str, TextIn] = field(default_factory=dict)  # request headers that it reads
    parts: Mapping[str, TextIn] = field(default_factory=dict)  # variable parts of the path, where not any text will do
    problems: tuple[str, ...] = ()  # codes beside those that every route may answer
    explain: Explain | None = None  # further faults of a request that is refused anyway
    before_change: bool = False  # also for operators who have to change their password first

    @property
    def action(self) -> str:
        """What the audit chain calls it."""
        return f"{self.handler.__module__.rpartition('.')[2]}.{self.handler.__name__}"

    @property
    def writes(self) -> bool:
        return self.method not in ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class ListOf:
    """An answer ``{"items": […], "next_cursor": …}``, with further members."""

    item: type
    more: tuple[str, ...] = ()  # how far a search went


def bind(route: Route, app: web.Application) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The function that aiohttp calls for a route."""
    label = f"{route.method} {PREFIX}{route.path}"
    without_query = _without_query(route)

    async def answer(request: web.Request) -> web.StreamResponse:
        caller, session = await authorise(route, request)
        check_encoding(request)
        query, body = await _read(route, request, caller, without_query)
        call = Call(request, app[BRIDGE], caller, query, body, session)
        if route.deadline_s is None:
            return await route.handler(call)
        try:
            async with asyncio.timeout(route.deadline_s):
                return await route.handler(call)
        except TimeoutError:
            raise unreachable() from None

    async def handle(request: web.Request) -> web.StreamResponse:
        request[LABEL] = label
        try:
            return await answer(request)
        except RecordsUnavailable:  # nothing can be written
            raise
        except (Problem, BridgeError) as error:
            problem = error if isinstance(error, Problem) else from_error(error)
            if route.writes:
                await refused(request, route.action, problem)
            else:
                await refused_read(request, route.action, problem)
            raise

    return handle


def apart(path: str, routes: Iterable[Route]) -> str:
    """The path for the router: its last variable part is none of the words that other paths have in that place.

    Without that, what is there under the one path would be offered under the other as well.
    """
    head, _, part = path.rpartition("/")
    if not part.startswith("{"):
        return path
    siblings = (route.path.rpartition("/") for route in routes)
    words = sorted({last for first, _, last in siblings if first == head and not last.startswith("{")})
    taken = f"(?!(?:{'|'.join(map(re.escape, words))})$)" if words else ""
    return f"{head}/{{{part[1:-1]}:{taken}[^{{}}/]+}}"


async def authorise(route: Route, request: web.Request) -> tuple[Caller, Session | None]:
    """Who calls. Raises Problem if nobody knows them, or their role is less than the route takes."""
    access = request.app[ACCESS]
    caller, session = access.bearer(request), None
    if caller is None and route.role is not None:
        session = await _session(access, request)
        if session is None:
            raise Problem("unauthorized", "send a known token: Authorization: Bearer TOKEN")
        caller = request[CALLER] = caller_of(session.operator)
        if route.writes:
            check_same_origin(request, https=access.proxies.is_https(request))
        if session.operator.must_change and not route.before_change:
            raise Problem("forbidden", f"choose a new password first: POST {PREFIX}/session/password")
    if caller is None:
        return NOBODY, None
    request[CALLER] = caller
    if route.role is not None:
        require(caller, route.role)
    return caller, session


async def _session(access: Access, request: web.Request) -> Session | None:
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await access.session(request)
    except TimeoutError:
        raise RecordsUnavailable("the back office's database does not answer") from None


def require(caller: Caller, least: Role) -> None:
    if caller.role < least:
        raise Problem("forbidden", f"this takes the role {least}; {caller.name} is {caller.role}")


async def refused(request: web.Request, action: str, problem: Problem) -> None:
    """Write to the audit chain that somebody wanted something and was not let, unless it says so already."""
    if AUDITED in request:
        return
    by = request.get(CALLER, NOBODY).name
    if CALLER not in request and not request.app[STRANGERS].take():
        return  # a flood of these says nothing that its first hundred did not
    target = request.path.removeprefix(PREFIX)
    await request.app[AUDIT].refuse(_act(request, by, Deed(action, target)), f"refused {problem.code}")


async def refused_read(request: web.Request, action: str, problem: Problem) -> None:
    """The same for what a role may not see, up to a limit; a database that is away keeps nobody from the answer."""
    if problem.code == "forbidden" and request.app[REFUSED_READS].take():
        try:
            await refused(request, action, problem)
        except RecordsUnavailable:
            log.warning("a refused read is not in the audit chain", action=action)


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """``value`` (dataclasses, mappings, times) as JSON."""
    fields = _JSON if headers is None else {**_JSON, **headers}
    return web.Response(status=status, body=orjson.dumps(value, option=orjson.OPT_UTC_Z), headers=fields)


async def _read(route: Route, request: web.Request, caller: Caller, without: Query | None) -> tuple[Any, Any]:
    faults: list[Fault] = []
    query = without if without and not request.query_string else check_query(route.query, request, faults)
    body, raw = None, None
    if route.body is not None:
        raw = await read_json(request, limit=route.body_bytes, nesting=route.nesting)
        body = check(route.body, raw, faults)
    elif request.body_exists:
        await check_no_body(request, faults)
    if faults:
        if route.explain is not None:
            faults += route.explain(route, request, caller, raw)
        raise invalid(faults)
    return query, body


def _without_query(route: Route) -> Query | None:
    """The parameters of a request that has none; None if the route needs some."""
    try:
        return route.query()
    except ValidationError:
        return None
