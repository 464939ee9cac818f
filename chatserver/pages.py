"""What browsers load from a node: the client's module everywhere, a demo chat page where it is asked for."""

from __future__ import annotations

import math
import re
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from joserfc import jwt
from joserfc.jwk import OctKey
from websockets.http11 import Request, Response

from bridge.chat.state import list_rooms
from bridge.client import Bridge
from bridge.errors import BridgeError, Misconfigured
from chatserver.auth import MAX_NAME_CHARS, BadToken, Tokens
from chatserver.config import ChatSettings
from chatserver.limits import Bucket
from chatserver.responses import respond, respond_json

STATIC: Final = Path(__file__).parent / "static"
TOKEN_S: Final = 3600
RENEWABLE_S: Final = 24 * 3600  # after its end a token of the page still says who is back
TOKENS_PER_S: Final = 5.0
TOKENS_AT_ONCE: Final = 50.0
SHOWN_ROOMS: Final = 20  # a session may be in 50
CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
}
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Pages of other addresses may import the module: it is the same for everybody, and public.
_FOR_ANYBODY: Final = {**_HEADERS, "Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}


@dataclass(frozen=True, slots=True)
class File:
    """One static file, read at start."""

    content_type: str
    body: bytes

    @classmethod
    def read(cls, path: Path) -> File:
        return cls(_TYPES[path.suffix], path.read_bytes())


class Pages:
    """Answers every path that neither clients nor monitoring use; without ``demo`` nearly all are unknown."""

    def __init__(self, demo: DemoPage | None = None) -> None:
        self._demo = demo
        self._module = {f"/{name}": File.read(STATIC / name) for name in ("client.js", "client.d.ts")}
        self._page: dict[str, File] = {}
        if demo is not None:
            self._page = {f"/demo/{path.name}": File.read(path) for path in sorted((STATIC / "demo").iterdir())}
            self._page["/"] = self._page.pop("/demo/index.html")

    async def respond(self, request: Request) -> Response:
        path, _, query = request.path.partition("?")
        if self._demo is not None and path == "/demo/token":
            return await self._demo.token(request, query)
        file = self._module.get(path) or self._page.get(path)
        asks = self._demo is not None and path == "/demo/rooms"
        if file is None and not asks:
            return respond_json(request, 404, {"status": "not found"})
        if request.method not in ("GET", "HEAD"):
            return respond(request, 405, "text/plain", b"", {"Allow": "GET, HEAD"})
        if file is None:
            assert self._demo is not None
            return await self._demo.rooms(request)
        headers = _FOR_ANYBODY if path in self._module else _HEADERS
        return respond(request, 200, file.content_type, file.body, headers)


class DemoPage:
    """What the demo page asks of its node: who its user is, which rooms there are, where the other nodes are."""

    def __init__(self, settings: ChatSettings, bridge: Bridge, *, clock: Callable[[], float] = time.time) -> None:
        """Raises Misconfigured if the node cannot sign tokens, or nobody said which pages may connect."""
        key = settings.jwt_key.get_secret_value()
        if key.startswith(("http://", "https://")) or key.lstrip().startswith("{"):
            raise Misconfigured("CHATSERVER_DEMO_PAGE signs tokens itself: set CHATSERVER_JWT_KEY to a secret")
        if not settings.origins:
            raise Misconfigured("CHATSERVER_DEMO_PAGE needs CHATSERVER_ORIGINS: the page's own address, or *")
        self._settings, self._bridge, self._clock = settings, bridge, clock
        self._key = OctKey.import_key(key)
        self._bucket = Bucket()
        self._lately = Tokens(
            key, issuer=settings.jwt_issuer, audience=settings.jwt_audience, clock=lambda: clock() - RENEWABLE_S
        )

    async def token(self, request: Request, query: str) -> Response:
        """``POST /demo/token?name=NAME``: a new user; with the page's last token as bearer, the same one again."""
        if request.method != "POST":
            return respond(request, 405, "text/plain", b"", {"Allow": "POST"})
        wait = self._bucket.take(self._clock(), rate=TOKENS_PER_S, burst=TOKENS_AT_ONCE)
        if wait:
            headers = {"Retry-After": str(math.ceil(wait))}
            return respond_json(request, 429, {"error": "too many sign in right now"}, headers)
        bearer = request.headers.get("Authorization", "")
        if bearer:
            try:
                known = await self._lately.check(bearer.removeprefix("Bearer "))
            except BadToken as error:
                return respond_json(request, 401, {"error": str(error)}, {"WWW-Authenticate": "Bearer"})
            user, name = known.user, known.name
        else:
            name = (parse_qs(query).get("name") or [""])[0]
            name = " ".join(name.split())
            if not _may_be_a_name(name):
                return respond_json(request, 422, {"error": f"a name has 1 to {MAX_NAME_CHARS} characters"})
            user = new_user(name)
        return respond_json(request, 200, {"token": self._sign(user, name), "user": user, "name": name})

    async def rooms(self, request: Request) -> Response:
        """Rooms that there are, and addresses of the other nodes, for when this one is gone."""
        try:
            rooms = await list_rooms(self._bridge, limit=SHOWN_ROOMS)
            nodes = await self._bridge.inspector.nodes(with_lag=False)
        except BridgeError as error:
            return respond_json(request, 503, {"error": str(error)}, {"Retry-After": "1"})
        others = [n.url for n in nodes if n.state == "live" and n.name != self._settings.node_name]
        listed = [{"id": room.id, "title": room.title} for room in rooms]
        return respond_json(request, 200, {"rooms": listed, "nodes": others})

    def _sign(self, user: str, name: str) -> str:
        settings = self._settings
        claims = {"sub": user, "name": name, "exp": int(self._clock()) + TOKEN_S}
        if settings.jwt_issuer is not None:
            claims["iss"] = settings.jwt_issuer
        if settings.jwt_audience is not None:
            claims["aud"] = settings.jwt_audience
        return jwt.encode({"alg": "HS256"}, claims, self._key)


def new_user(name: str) -> str:
    """An id that nobody has yet, and that an operator recognises."""
    return f"{re.sub(r'[^a-z0-9]', '', name.casefold())[:24] or 'guest'}-{secrets.token_hex(3)}"


def _may_be_a_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME_CHARS and all(unicodedata.category(c) not in ("Cc", "Cs") for c in name)
