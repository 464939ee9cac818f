"""The frame of every page: who looks, in which language, what they may do; and how a page asks the API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp_jinja2
import orjson
from aiohttp import hdrs, web
from pydantic import ValidationError

from backoffice.access import caller_of, check_same_origin
from backoffice.intake import NoQuery, Query
from backoffice.operators import Caller, Role
from backoffice.people import Session
from backoffice.problems import Fault, Problem, from_error, invalid, unreachable
from backoffice.routes import (
    ACCESS,
    BRIDGE,
    CALLER,
    LABEL,
    PREFIX,
    WATCH,
    Call,
    Handler,
    refused,
    refused_read,
    require,
)
from backoffice.ui.words import Words, words_for
from bridge.client import Bridge
from bridge.errors import BridgeError
from bridge.registry import faults as faults_of

DEADLINE_S = 3.0  # of a page; it may ask the API several times
THEMES = ("auto", "light", "dark")
THEME_COOKIE = "theme"
KEYS = ("on", "off")
KEYS_COOKIE = "keys"
FOLDERS = (".", "..")  # ids that browsers would take for such at the end of an address
HEADERS = {
    hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One request for a page, by somebody who is logged in."""

    request: web.Request
    session: Session
    words: Words

    @property
    def caller(self) -> Caller:
        return caller_of(self.session.operator)

    @property
    def bridge(self) -> Bridge:
        return self.request.app[BRIDGE]

    def part(self, name: str) -> str:
        return self.request.match_info[name]

    def given(self, name: str) -> str:
        """A query parameter, empty where it is not there."""
        return self.request.query.get(name, "").strip()

    async def ask(self, handler: Handler, query: Query | None = None, **parts: str) -> Any:
        """What the API answers this operator, as JSON has it. Raises Problem."""
        call = Call(self.request, self.bridge, self.caller, query or NoQuery(), None, self.session, parts or None)
        response = await handler(call)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        return orjson.loads(response.body)

    def render(self, template: str, *, status: int = 200, **context: Any) -> web.Response:
        context |= {"page": self, "alarms": self.request.app[WATCH].alarms.now}
        return render(self.request, self.words, template, status=status, **context)

    def address(self, **changes: str | int | None) -> str:
        """This page with other parameters; None takes one away."""
        given = {name: value for name, value in self.request.query.items() if name not in changes}
        given |= {name: str(value) for name, value in changes.items() if value not in (None, "")}
        return f"?{urlencode(given)}"


PageHandler = Callable[[Page], Awaitable[web.StreamResponse]]
BareHandler = Callable[[web.Request, Words], Awaitable[web.StreamResponse]]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def render(request: web.Request, words: Words, template: str, *, status: int = 200, **context: Any) -> web.Response:
    theme, keys = request.cookies.get(THEME_COOKIE), request.cookies.get(KEYS_COOKIE)
    context |= {"_": words, "theme": theme if theme in THEMES else "auto", "keys": keys if keys in KEYS else "on",
                "path": request.path, "here": local(_here(request))}  # fmt: skip
    text = aiohttp_jinja2.render_string(template, request, context)
    return web.Response(text=text, status=status, headers=HEADERS)


def add_page(app: web.Application, path: str, handler: PageHandler, role: Role = Role.VIEWER) -> None:
    """A page for who is logged in; who is not logs in first."""
    add_bare(app, "GET", path, _logged_in(app, path, handler, role))


def nowhere(app: web.Application) -> Answer:
    """For what no route answers: a page for browsers that look for one, HTTPNotFound for all others."""

    async def say(page: Page) -> web.StreamResponse:
        raise Problem("not_found", "there is no such page")

    tell = _bare(app, "none", _logged_in(app, "", say, Role.VIEWER))

    async def answer(request: web.Request) -> web.StreamResponse:
        looking = request.method in ("GET", "HEAD") and "text/html" in request.headers.get(hdrs.ACCEPT, "")
        if not looking or request.path.startswith(f"{PREFIX}/"):
            raise web.HTTPNotFound
        return await tell(request)

    return answer


def _logged_in(app: web.Application, path: str, handler: PageHandler, role: Role) -> BareHandler:
    async def answer(request: web.Request, words: Words) -> web.StreamResponse:
        session = await app[ACCESS].session(request)
        if session is None:
            raise web.HTTPSeeOther(f"/login?{urlencode({'next': _here(request)})}")
        if session.operator.must_change and path != "/password":
            raise web.HTTPSeeOther("/password")
        page = Page(request, session, words)
        try:
            require(page.caller, role)
            async with asyncio.timeout(DEADLINE_S):
                return await handler(page)
        except Problem as problem:
            request[CALLER] = page.caller
            await refused_read(request, f"pages.{handler.__name__}", problem)
            return page.render("problem.html", status=problem.status, problem=problem)
        except (BridgeError, TimeoutError) as error:
            met = from_error(error) if isinstance(error, BridgeError) else unreachable()
            return page.render("problem.html", status=met.status, problem=met)

    return answer


def add_bare(app: web.Application, method: str, path: str, handler: BareHandler, *, action: str | None = None) -> None:
    """A page for everybody. ``action``: what the audit chain calls it, where it changes more than this browser."""
    handle = _bare(app, f"{method} {path}", handler, action)
    if method == "GET":
        app.router.add_get(path, handle)
    else:
        app.router.add_route(method, path, handle)


def _bare(app: web.Application, label: str, handler: BareHandler, action: str | None = None) -> Answer:
    async def handle(request: web.Request) -> web.StreamResponse:
        request[LABEL] = label
        words = words_for(request)
        try:
            try:
                if request.method == "POST":
                    check_same_origin(request, https=app[ACCESS].proxies.is_https(request))
                return await handler(request, words)
            except Problem as refusal:
                if action is not None:
                    await refused(request, action, refusal)
                raise
        except web.HTTPSeeOther as elsewhere:
            return web.Response(status=303, headers={hdrs.LOCATION: str(elsewhere.location)})
        except (Problem, BridgeError) as error:
            problem = error if isinstance(error, Problem) else from_error(error)
            response = render(request, words, "bare_problem.html", status=problem.status, problem=problem)
            response.headers.update(problem.headers)
            if problem.code == "timeout":
                response.force_close()  # nobody waits for the rest of its body
            return response

    return handle


def query_of(model: type[Query], given: dict[str, Any]) -> Any:
    """Parameters as the API's model; those without a value are left out. Raises Problem."""
    try:
        return model.model_validate({name: value for name, value in given.items() if value not in ("", None)})
    except ValidationError as error:
        raise invalid(Fault(f"?{path[1:]}", code, message) for path, code, message in faults_of(error)) from None


def page_of(id: str, place: str) -> str:
    """The address of a room's or user's page."""
    return f"/{place}?{urlencode({'id': id})}" if id in FOLDERS else f"/{place}/{quote(id, safe='@+')}"


def local(address: str | None) -> str:
    """An address on these pages; the first page for anything else."""
    fine = address and address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return quote(address, safe="/?&=:;,@+%#~!$'()*-._") if fine and address else "/"


def _here(request: web.Request) -> str:
    return request.path_qs if request.method == "GET" else request.path
