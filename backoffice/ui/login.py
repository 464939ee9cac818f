"""Log in, choose a password, log out, and what a browser remembers of looks, language and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from aiohttp import hdrs, web

from backoffice.access import caller_of
from backoffice.api import session as api
from backoffice.intake import Body, NoQuery, check, read_form
from backoffice.operators import Caller
from backoffice.passwords import MAX_CHARS, MIN_CHARS
from backoffice.people import Session
from backoffice.problems import Fault, Problem, invalid
from backoffice.routes import ACCESS, BRIDGE, CALLER, NOBODY, Call, refused
from backoffice.ui.frame import KEYS, KEYS_COOKIE, THEME_COOKIE, THEMES, Page, add_bare, add_page, local, render
from backoffice.ui.words import COOKIE as LANGUAGE_COOKIE
from backoffice.ui.words import LANGUAGES, Words

# As the API's own routes are called in the audit chain.
LOG_IN, CHOOSE_PASSWORD, LOG_OUT = "session.log_in", "session.choose_password", "session.log_out"
FORM_BYTES = 16_384
KEEP_S = 400 * 86_400


async def show(request: web.Request, words: Words) -> web.StreamResponse:
    access, next_ = request.app[ACCESS], local(request.query.get("next"))
    if await access.session(request) is not None:
        raise web.HTTPSeeOther(next_)
    try:
        access.check_private(request)
    except Problem as problem:  # before somebody sends a password
        return render(request, words, "login.html", status=problem.status, next=next_, name="", problem=problem)
    return render(request, words, "login.html", next=next_, name="", problem=None)


async def log_in(request: web.Request, words: Words) -> web.StreamResponse:
    form = await read_form(request, FORM_BYTES)
    name, next_ = _text(form, "name"), local(_text(form, "next"))
    try:
        body = _checked(api.LogIn, {"name": name, "password": _text(form, "password")})
        answer = await api.log_in(Call(request, request.app[BRIDGE], NOBODY, NoQuery(), body))
    except Problem as problem:
        await refused(request, LOG_IN, problem)
        return render(request, words, "login.html", status=problem.status, next=next_, name=name, problem=problem)
    return _on(next_, answer)


async def password(page: Page) -> web.StreamResponse:
    return _password_page(page)


def _password_page(page: Page, problem: Problem | None = None) -> web.Response:
    status = 200 if problem is None else problem.status
    return page.render("password.html", status=status, problem=problem, least=MIN_CHARS, most=MAX_CHARS)


async def choose_password(request: web.Request, words: Words) -> web.StreamResponse:
    session, caller = await _session(request, CHOOSE_PASSWORD)
    form = await read_form(request, FORM_BYTES)
    page = Page(request, session, words)
    try:
        if _text(form, "new") != _text(form, "again"):
            raise invalid([Fault("/again", "different", words("the two are not the same"))])
        body = _checked(api.NewPassword, {"old": _text(form, "old"), "new": _text(form, "new")})
        answer = await api.choose_password(Call(request, request.app[BRIDGE], caller, NoQuery(), body, session))
    except Problem as problem:
        await refused(request, CHOOSE_PASSWORD, problem)
        return _password_page(page, problem)
    return _on("/login?changed=1", answer)


async def log_out(request: web.Request, _words: Words) -> web.StreamResponse:
    session, caller = await _session(request, LOG_OUT)
    form = await read_form(request, FORM_BYTES)
    which = api.Everywhere(everywhere=bool(_text(form, "everywhere")))
    answer = await api.log_out(Call(request, request.app[BRIDGE], caller, which, None, session))
    return _on("/login?out=1", answer)


async def prefer(request: web.Request, _words: Words) -> web.StreamResponse:
    """Looks, language and keys, which are this browser's alone."""
    form = await read_form(request, FORM_BYTES)
    response = web.Response(status=303, headers={hdrs.LOCATION: local(_text(form, "next"))})
    for name, known in ((THEME_COOKIE, THEMES), (LANGUAGE_COOKIE, LANGUAGES), (KEYS_COOKIE, KEYS)):
        if (value := _text(form, name)) in known:
            response.set_cookie(name, value, max_age=KEEP_S, path="/", samesite="Lax", httponly=True,
                                secure=request.app[ACCESS].proxies.is_https(request))  # fmt: skip
    return response


async def _session(request: web.Request, action: str) -> tuple[Session, Caller]:
    session = await request.app[ACCESS].session(request)
    if session is None:
        await refused(request, action, Problem("unauthorized", "log in"))
        raise web.HTTPSeeOther(f"/login?{urlencode({'next': '/'})}")
    request[CALLER] = caller_of(session.operator)
    return session, request[CALLER]


def _text(form: Mapping[str, str], name: str) -> str:
    return form.get(name, "")


def _checked(model: type[Body], value: dict[str, Any]) -> Any:
    faults: list[Fault] = []
    body = check(model, value, faults)
    if body is None:
        raise invalid(faults)
    return body


def _on(address: str, answer: web.Response) -> web.Response:
    """To the next page, with the cookie that the API's answer sets."""
    response = web.Response(status=303, headers={hdrs.LOCATION: address})
    for cookie in answer.cookies.values():
        response.headers.add(hdrs.SET_COOKIE, cookie.OutputString())
    return response


def add_to(app: web.Application) -> None:
    add_bare(app, "GET", "/login", show)
    add_bare(app, "POST", "/login", log_in, action=LOG_IN)
    add_page(app, "/password", password)
    add_bare(app, "POST", "/password", choose_password, action=CHOOSE_PASSWORD)
    add_bare(app, "POST", "/logout", log_out, action=LOG_OUT)
    add_bare(app, "POST", "/preferences", prefer)
