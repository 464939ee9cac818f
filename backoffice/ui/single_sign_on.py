"""Logging in at the organisation's own provider: the way there, and the way back."""

from __future__ import annotations

from functools import partial
from secrets import compare_digest

from aiohttp import hdrs, web

from backoffice.access import Access, cookie_of
from backoffice.api.session import count_try
from backoffice.intake import NoQuery
from backoffice.oidc import Attempt, Person, Provider
from backoffice.operators import Caller
from backoffice.problems import Problem
from backoffice.routes import ACCESS, BRIDGE, LOGINS, NOBODY, Call, Deed, refused
from backoffice.throttle import network
from backoffice.ui.frame import add_bare, local, render
from backoffice.ui.login import LOG_IN
from backoffice.ui.system import SETTINGS
from backoffice.ui.words import Words

BACK = "/login/provider/back"
ATTEMPT_S = 600  # from the button to the way back
_MOST_CHARS = 4096  # of a code


async def leave(provider: Provider, request: web.Request, words: Words) -> web.StreamResponse:
    """To the provider. What has to be known again on the way back stays with the browser."""
    access, next_ = request.app[ACCESS], local(request.query.get("next"))
    attempt = Attempt.new(next_)
    try:
        access.check_private(request)
        where = await provider.begin(attempt, _address(access, request))
    except Problem as problem:
        return _again(request, words, problem, next_)
    response = web.Response(status=303, headers={hdrs.LOCATION: where, "Referrer-Policy": "no-referrer"})
    _remember(access, request, response, attempt)
    return response


async def come_back(provider: Provider, request: web.Request, words: Words) -> web.StreamResponse:
    """From the provider, with a code; only in the browser that left for it, and once."""
    access = request.app[ACCESS]
    attempt = Attempt.unpack(cookie_of(request, _cookie(access, request)) or "")
    next_ = local(attempt.next if attempt else None)
    try:
        access.check_private(request)
        code = _code(provider, request, attempt)
        assert attempt is not None
        address = access.proxies.address(request)
        key = f"provider {network(address)}"
        count_try(request.app[LOGINS].throttle, key)
        person = await provider.finish(attempt, code, _address(access, request))
        secret = await _enter(provider, request, person, address)
        request.app[LOGINS].throttle.succeeded(key)
    except Problem as problem:
        await refused(request, LOG_IN, problem)
        return _again(request, words, problem, next_)
    response = web.Response(status=303, headers={hdrs.LOCATION: next_})
    access.set_cookie(request, response, secret)
    _remember(access, request, response, None)
    return response


def _code(provider: Provider, request: web.Request, attempt: Attempt | None) -> str:
    """The code of an answer to this browser's own question. Raises Problem."""
    given = request.query
    if attempt is None or not compare_digest(given.get("state", "").encode(), attempt.state.encode()):
        raise Problem("forbidden", "this login was not begun in this browser, or too long ago: log in again")
    if given.get("iss", provider.issuer) != provider.issuer:
        raise Problem("forbidden", "another provider answers than the one that was asked: log in again")
    if "error" in given:
        raise Problem("forbidden", f"the login provider says {given['error'][:60]!r}: log in again, or ask who runs it")
    if not 0 < len(given.get("code", "")) <= _MOST_CHARS:
        raise Problem("forbidden", "the login provider sent no code: log in again")
    return given["code"]


async def _enter(provider: Provider, request: web.Request, person: Person, address: str) -> str:
    """A session's secret. Raises Problem."""
    people = request.app[ACCESS].people
    name, before = await people.called(person.subject, person.names)
    call = Call(request, request.app[BRIDGE], Caller(NOBODY.name, NOBODY.role), NoQuery(), None)
    detail = {"provider": provider.issuer, "subject": person.subject[:12], "role": str(person.role),
              "made": before is None, "role_before": None if before is None else str(before)}  # fmt: skip
    async with call.audited(Deed(LOG_IN, f"operator:{name}", detail=detail)):
        agent = request.headers.get(hdrs.USER_AGENT, "")
        secret = await people.enter(person.subject, name, person.role, address=address, agent=agent)
        if secret is None:
            raise Problem("forbidden", f"{name} is disabled here; an admin can change that")
    return secret


def _again(request: web.Request, words: Words, problem: Problem, next_: str) -> web.StreamResponse:
    context = {"next": next_, "name": "", "problem": problem, "elsewhere": True}
    response = render(request, words, "login.html", status=problem.status, **context)
    response.headers.update(problem.headers)
    _remember(request.app[ACCESS], request, response, None)
    return response


def _address(access: Access, request: web.Request) -> str:
    """Where the provider sends browsers back to, as it has to be told beforehand."""
    return f"{'https' if access.proxies.is_https(request) else 'http'}://{request.host}{BACK}"


def _cookie(access: Access, request: web.Request) -> str:
    return "__Host-login" if access.proxies.is_https(request) else "login"


def _remember(access: Access, request: web.Request, response: web.Response, attempt: Attempt | None) -> None:
    """Sent along when the provider sends the browser back (Lax), and by no other site's page."""
    response.set_cookie(
        _cookie(access, request),
        attempt.pack() if attempt else "",
        max_age=ATTEMPT_S if attempt else 0,
        path="/",
        secure=access.proxies.is_https(request),
        httponly=True,
        samesite="Lax",
    )


def add_to(app: web.Application) -> None:
    provider = app[SETTINGS].provider
    if provider is not None:
        add_bare(app, "GET", "/login/provider", partial(leave, provider))
        add_bare(app, "GET", BACK, partial(come_back, provider))
