"""Who calls: a bearer token of the settings or of the database, or an operator's session cookie."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

from aiohttp import hdrs, web
from yarl import URL

from backoffice.operators import Caller, Tokens, digest_of
from backoffice.people import SESSION_S, Operator, People, Session
from backoffice.problems import Problem
from backoffice.proxies import Proxies

REFRESH_S = 0.5  # how soon a token that was made or dropped elsewhere is known here
SECURE_COOKIE, PLAIN_COOKIE = "__Host-session", "session"
_COOKIE_VALUE = re.compile(r"[\w.-]+", re.ASCII)


class Access:
    """Finds the caller of a request. ``step`` has to be called every ``REFRESH_S``."""

    def __init__(self, fixed: Tokens, people: People, proxies: Proxies) -> None:
        self.people, self.proxies = people, proxies
        self._fixed = fixed
        self._made: Mapping[bytes, tuple[Caller, int | None]] = {}

    async def step(self) -> None:
        """Read again which tokens there are."""
        self._made = await self.people.callers()

    def bearer(self, request: web.BaseRequest) -> Caller | None:
        """Whose token the request has. Raises Problem if it has one that nobody knows."""
        header = request.headers.get(hdrs.AUTHORIZATION)
        if header is None:
            return None
        scheme, _, given = header.partition(" ")
        caller = self._find(given.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Problem("unauthorized", "send a known token: Authorization: Bearer TOKEN")
        return caller

    async def session(self, request: web.BaseRequest) -> Session | None:
        """Whose session's cookie the request has; None without one that holds, and in plain HTTP beyond loopback."""
        if not self.proxies.is_private(request):
            return None
        secret = cookie_of(request, self.cookie_name(request))
        return await self.people.session(secret) if secret else None

    async def holds(self, request: web.BaseRequest, session: Session | None) -> bool:
        """Whether who was let in with this request still would be; to ask is no sign of life."""
        if session is not None:
            return await self.people.holds(session)
        try:
            return self.bearer(request) is not None
        except Problem:
            return False

    def check_private(self, request: web.BaseRequest) -> None:
        """Refuse to begin a session where somebody on the way could take it. Raises Problem."""
        if not self.proxies.is_private(request):
            raise Problem("forbidden", "log in over https: in plain HTTP beyond this machine others could read the "
                          "session; behind a proxy, BACKOFFICE_TRUSTED_PROXIES has to name it")  # fmt: skip

    def cookie_name(self, request: web.BaseRequest) -> str:
        return SECURE_COOKIE if self.proxies.is_https(request) else PLAIN_COOKIE

    def set_cookie(self, request: web.BaseRequest, response: web.StreamResponse, secret: str | None) -> None:
        """Give the browser its session, or take it away (None). Scripts cannot read it, other sites cannot send it."""
        secure = self.proxies.is_https(request)
        response.set_cookie(
            self.cookie_name(request),
            secret or "",
            max_age=SESSION_S if secret else 0,
            path="/",
            secure=secure,
            httponly=True,
            samesite="Lax",
        )

    def _find(self, token: str) -> Caller | None:
        digest = digest_of(token)
        fixed = self._fixed.of_digest(digest)
        if fixed is not None:
            return fixed
        caller, expires = self._made.get(digest, (None, None))
        return caller if expires is None or expires > time.time() * 1000 else None


def cookie_of(request: web.BaseRequest, name: str) -> str | None:
    """The value of a cookie that only this site can have set, going by its name; None without one, or with several.

    Browsers keep ``__Host-`` for the site itself where a name begins with it, so only what stands between two
    semicolons is a cookie here: aiohttp would find one in another's value, behind a space.
    """
    cookies = (
        part.strip(" \t").partition("=") for part in ";".join(request.headers.getall(hdrs.COOKIE, ())).split(";")
    )
    values = [value for given, _, value in cookies if given == name]
    return values[0] if len(values) == 1 and _COOKIE_VALUE.fullmatch(values[0]) else None


def check_same_origin(request: web.BaseRequest, *, https: bool) -> None:
    """Refuse a change that another site's page asks for with this browser's cookie. Raises Problem.

    Browsers say where a request comes from in Sec-Fetch-Site, older ones in Origin; what says neither is no browser.
    This is the algorithm of Go's ``http.CrossOriginProtection`` (1.25; F. Valsorda, Cross-Site Request Forgery,
    2025), but for an Origin that has to have our scheme as well.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get(hdrs.ORIGIN)
    if site is not None:
        if site in ("same-origin", "none"):
            return
        raise Problem("forbidden", f"this request comes from another site ({site[:20]})")
    here = f"{'https' if https else 'http'}://{request.host}"
    if origin is not None and (not origin or _normal(origin) != _normal(here)):
        raise Problem("forbidden", f"this request comes from another site ({origin[:100]})")


def _normal(origin: str) -> str:
    try:
        return str(URL(origin).origin())
    except ValueError:
        return ""


def caller_of(operator: Operator) -> Caller:
    return Caller(operator.name, operator.role)
