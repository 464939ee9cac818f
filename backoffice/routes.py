"""What a route is, and the frame that every call runs in: who calls, may they, what do they send; then one handler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import orjson
from aiohttp import hdrs, web
from multidict import CIMultiDict
from pydantic import ValidationError

from backoffice.intake import BODY_BYTES, Body, NoQuery, Query, check, check_encoding, check_query, read_json
from backoffice.operators import Caller, Role, Tokens
from backoffice.problems import Fault, Problem, invalid, unreachable
from bridge.client import Bridge
from bridge.envelope import MAX_DEPTH

PREFIX = "/api/v1"
DEADLINE_S = 0.8  # a call that waits for Redis longer is answered 503, which is promised within a second

BRIDGE = web.AppKey("bridge", Bridge)
TOKENS = web.AppKey("tokens", Tokens)
REQUEST_ID = web.RequestKey("request_id", str)
LABEL = web.RequestKey("label", str)  # method and path as registered, for the metrics
STOPPING = web.AppKey("stopping", asyncio.Event)  # set when the service begins to stop: whoever waits, answers

Q = TypeVar("Q", bound=Query)
B = TypeVar("B", bound=Body | None)


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """One authorised request whose query and body fit their models."""

    request: web.Request
    bridge: Bridge
    caller: Caller
    query: Q
    body: B

    def part(self, name: str) -> str:
        """A variable part of the path."""
        return self.request.match_info[name]


Handler = Callable[[Any], Awaitable[web.Response]]
Explain = Callable[["Route", web.Request, Caller, Any], list[Fault]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. The first line of the handler's docstring is its summary in the API's document."""

    method: str
    path: str  # below /api/v1
    handler: Handler
    role: Role
    answers: Mapping[int, Any]  # status → type of the answer, or ListOf
    query: type[Query] = NoQuery
    body: type[Body] | None = None
    body_bytes: int = BODY_BYTES
    nesting: int = MAX_DEPTH + 1
    deadline_s: float | None = DEADLINE_S  # None: the handler has its own
    headers: Mapping[str, str] = field(default_factory=dict)  # request headers that it reads → description
    problems: tuple[str, ...] = ()  # codes beside those that every route may answer
    explain: Explain | None = None  # further faults of a request that is refused anyway


@dataclass(frozen=True, slots=True)
class ListOf:
    """An answer ``{"items": […], "next_cursor": …}``."""

    item: type


def bind(route: Route, app: web.Application) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The function that aiohttp calls for a route."""
    label, tokens = f"{route.method} {PREFIX}{route.path}", app[TOKENS]
    without_query = _without_query(route)

    async def handle(request: web.Request) -> web.Response:
        request[LABEL] = label
        caller = authorise(route.role, tokens, request)
        check_encoding(request)
        query, body = await _read(route, request, caller, without_query)
        call = Call(request, app[BRIDGE], caller, query, body)
        if route.deadline_s is None:
            return await route.handler(call)
        try:
            async with asyncio.timeout(route.deadline_s):
                return await route.handler(call)
        except TimeoutError:
            raise unreachable() from None

    return handle


def authorise(least: Role, tokens: Tokens, request: web.Request) -> Caller:
    """Who calls. Raises Problem if nobody knows them, or their role is less than ``least``."""
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    caller = tokens.find(token.strip()) if scheme.lower() == "bearer" else None
    if caller is None:
        challenge = {hdrs.WWW_AUTHENTICATE: "Bearer"}
        raise Problem("unauthorized", "send a known token: Authorization: Bearer TOKEN", headers=challenge)
    require(caller, least)
    return caller


def require(caller: Caller, least: Role) -> None:
    if caller.role < least:
        raise Problem("forbidden", f"this takes the role {least}; {caller.name} is {caller.role}")


def reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """``value`` (dataclasses, mappings, times) as JSON."""
    fields = CIMultiDict({hdrs.CONTENT_TYPE: "application/json"})
    if headers is not None:
        fields.update(headers)
    return web.Response(status=status, body=orjson.dumps(value, option=orjson.OPT_UTC_Z), headers=fields)


async def _read(route: Route, request: web.Request, caller: Caller, without: Query | None) -> tuple[Any, Any]:
    faults: list[Fault] = []
    query = without if without and not request.query_string else check_query(route.query, request, faults)
    body, raw = None, None
    if route.body is not None:
        raw = await read_json(request, limit=route.body_bytes, nesting=route.nesting)
        body = check(route.body, raw, faults)
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
