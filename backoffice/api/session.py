"""One's own session: log in, see who one is, choose a password, log out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from aiohttp import hdrs, web
from pydantic import Field

from backoffice.access import check_same_origin
from backoffice.intake import Body, NoQuery, Query
from backoffice.operators import NAME, Role
from backoffice.passwords import MAX_CHARS, MIN_CHARS
from backoffice.people import Session
from backoffice.problems import Fault, Problem, invalid, retry
from backoffice.routes import ACCESS, LOGINS, Call, Deed, Route, reply
from backoffice.throttle import Throttle
from backoffice.times import time_of

RoleName = Literal["viewer", "moderator", "operator", "admin"]


class LogIn(Body):
    """Who wants to log in."""

    name: Annotated[str, Field(max_length=64)]
    password: Annotated[str, Field(max_length=MAX_CHARS)]


class NewPassword(Body):
    """The old password, and the one to take its place."""

    old: Annotated[str, Field(max_length=MAX_CHARS)]
    new: Annotated[str, Field(min_length=MIN_CHARS, max_length=MAX_CHARS)]


class Everywhere(Query):
    """Which sessions."""

    everywhere: bool = Field(False, description="end all sessions of this operator, not this one only")


@dataclass(frozen=True, slots=True)
class Me:
    """Who calls."""

    name: str
    role: RoleName
    must_change_password: bool
    expires_at: datetime | None  # of the session; null for a token


@dataclass(frozen=True, slots=True)
class LoggedOut:
    sessions: int


async def log_in(call: Call[NoQuery, LogIn]) -> web.Response:
    """Log in with name and password; the session is in the cookie.

    Wrong names and wrong passwords get the same answer. After a few failures each further try has to wait.
    """
    access, logins, request = call.request.app[ACCESS], call.request.app[LOGINS], call.request
    check_same_origin(request, https=access.proxies.is_https(request))
    access.check_private(request)
    address, wanted = access.proxies.address(request), call.body
    name = wanted.name if re.fullmatch(NAME, wanted.name) else "-"
    with access.people.passwords.place(stranger=not logins.at_home(name, address)):  # first: it is no failure of theirs
        count_try(logins.throttle, *logins.keys(name, address))
        async with call.audited(Deed("session.log_in", f"operator:{name}")):
            entered = await access.people.log_in(
                name, wanted.password, address=address, agent=request.headers.get(hdrs.USER_AGENT, "")
            )
            if entered is None:
                raise Problem("unauthorized", "name or password is wrong")
            logins.succeeded(name, address)
    secret, session = entered
    response = reply(_me(session))
    access.set_cookie(request, response, secret)
    return response


async def me(call: Call[NoQuery, None]) -> web.Response:
    """Who one is here."""
    caller, session = call.caller, call.session
    if session is None:
        return reply(Me(caller.name, role_name(caller.role), False, None))
    return reply(_me(session))


async def choose_password(call: Call[NoQuery, NewPassword]) -> web.Response:
    """Choose another password; all sessions end, and one logs in again."""
    session = _own(call.session)
    access, throttle, name = call.request.app[ACCESS], call.request.app[LOGINS].throttle, session.operator.name
    key = f"password {name}"
    if call.body.new == call.body.old:
        raise invalid([Fault("/new", "same", "choose one that is not the old one")])
    with access.people.passwords.place():
        count_try(throttle, key)
        async with call.audited(Deed("session.choose_password", f"operator:{name}")):
            if not await access.people.choose_password(name, call.body.old, call.body.new):
                raise invalid([Fault("/old", "wrong", "this is not the old password")])
            throttle.succeeded(key)
    response = reply(LoggedOut(session.operator.sessions))
    access.set_cookie(call.request, response, None)
    return response


async def log_out(call: Call[Everywhere, None]) -> web.Response:
    """End this session, or all of one's own."""
    session, everywhere = _own(call.session), call.query.everywhere
    access = call.request.app[ACCESS]
    deed = Deed("session.log_out", f"operator:{session.operator.name}", detail={"everywhere": everywhere})
    async with call.audited(deed):
        ended = await access.people.log_out(session, everywhere=everywhere)
    response = reply(LoggedOut(ended))
    access.set_cookie(call.request, response, None)
    return response


def count_try(throttle: Throttle, *keys: str) -> None:
    """Raises Problem if any of these has to wait. A try is a failure until it succeeds: others are made beside it."""
    wait = throttle.wait_s(*keys)
    if wait > 0:
        raise retry("rate_limited", f"too many failures; try again in {wait:.0f} s", wait)
    throttle.failed(*keys)


def _me(session: Session) -> Me:
    operator = session.operator
    return Me(operator.name, role_name(operator.role), operator.must_change, time_of(session.expires_at))


def _own(session: Session | None) -> Session:
    if session is None:
        raise Problem("conflict", "this is for who logged in with a password; a token has no session")
    return session


def role_name(role: Role) -> RoleName:
    names: dict[Role, RoleName] = {
        Role.VIEWER: "viewer",
        Role.MODERATOR: "moderator",
        Role.OPERATOR: "operator",
        Role.ADMIN: "admin",
    }
    return names[role]


ROUTES = (
    Route("POST", "/session", log_in, None, {200: Me}, body=LogIn, deadline_s=None,
          problems=("rate_limited", "overloaded")),
    Route("GET", "/session", me, Role.VIEWER, {200: Me}, before_change=True),
    Route("DELETE", "/session", log_out, Role.VIEWER, {200: LoggedOut}, query=Everywhere, before_change=True,
          problems=("conflict",)),
    Route("POST", "/session/password", choose_password, Role.VIEWER, {200: LoggedOut}, body=NewPassword,
          deadline_s=None, before_change=True, problems=("conflict", "rate_limited", "overloaded")),
)  # fmt: skip
