"""A small OpenID provider on loopback: one client, and one person who is logged in there. What it says can be bent."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from typing import Any

from aiohttp import BasicAuth, web
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey
from yarl import URL

CLIENT, SECRET = "office", "the client's own: secret?"


@cache
def key(name: str) -> RSAKey:
    """Made once, as that takes its time."""
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"})


class LoginProvider:
    """Serves while it is entered. ``claims`` go over what its tokens say (None: left out)."""

    def __init__(self) -> None:
        self.url = ""
        self.redirects: set[str] = set()  # as somebody registered them
        self.secret: str | None = SECRET
        self.claims: dict[str, Any] = {}
        self.discovery: dict[str, Any] = {}
        self.keys, self.signs = [key("one")], "one"
        self.odd_keys: list[object] = []  # published beside them
        self.broken = ""  # what answers with status 500
        self.bend: Callable[[dict[str, Any]], str] | None = None  # claims → token
        self.asked: list[str] = []
        self.gate = asyncio.Event()  # discovery waits for it
        self.gate.set()
        self._codes: dict[str, Mapping[str, str]] = {}
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> LoginProvider:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/authorize", self._authorize)
        app.router.add_post("/token", self._token)
        app.router.add_get("/keys", self._keys)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        port = URL(self.url).port if self.url else 0
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _discovery(self, _request: web.Request) -> web.Response:
        self.asked.append("discovery")
        await self.gate.wait()
        if self.broken == "discovery":
            return web.json_response({}, status=500)
        return web.json_response({
            "issuer": self.url, "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/keys",
            "code_challenge_methods_supported": ["S256"], **self.discovery,
        })  # fmt: skip

    async def _authorize(self, request: web.Request) -> web.Response:
        given = request.query
        assert (given["response_type"], given["client_id"]) == ("code", CLIENT)
        assert given["redirect_uri"] in self.redirects
        assert given["code_challenge_method"] == "S256"
        assert "openid" in given["scope"].split()
        code = secrets.token_urlsafe(8)
        self._codes[code] = dict(given)
        back = URL(given["redirect_uri"]).update_query(code=code, state=given["state"], iss=self.url)
        raise web.HTTPSeeOther(str(back))

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.asked.append("token")
        if not self._knows(request, form):
            return web.json_response({"error": "invalid_client"}, status=401)
        asked = self._codes.pop(str(form["code"]), None)
        verifier = base64.urlsafe_b64encode(sha256(str(form["code_verifier"]).encode()).digest()).decode().rstrip("=")
        if asked is None or asked["code_challenge"] != verifier or asked["redirect_uri"] != form["redirect_uri"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"id_token": self._sign(asked["nonce"]), "access_token": "x", "token_type": "Bearer"})

    def _knows(self, request: web.Request, form: Mapping[str, Any]) -> bool:
        if self.secret is None or "client_secret" in form:
            return (form.get("client_id"), form.get("client_secret")) == (CLIENT, self.secret)
        given = BasicAuth.decode(request.headers.get("Authorization", "Basic Og=="))
        return URL(f"http://x/?a={given.login}&b={given.password}", encoded=True).query.items() >= {
            ("a", CLIENT), ("b", self.secret)}  # fmt: skip

    def _sign(self, nonce: str) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "sub": "248289761001", "nonce": nonce,
                  "iat": now, "exp": now + 300,
                  "preferred_username": "ann", "email": "ann@example.org",
                  "groups": ["staff", "chat-mods"]}  # fmt: skip
        claims = {name: value for name, value in (claims | self.claims).items() if value is not None}
        if self.bend is not None:
            return self.bend(claims)
        return jwt.encode({"alg": "RS256", "kid": self.signs}, claims, key(self.signs))

    async def _keys(self, _request: web.Request) -> web.Response:
        self.asked.append("keys")
        if self.broken == "keys":
            return web.json_response({}, status=500)
        return web.json_response({"keys": [*self.odd_keys, *KeySet(list(self.keys)).as_dict(private=False)["keys"]]})


def unsigned(claims: dict[str, Any]) -> str:
    signed = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key("k" * 32)).split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    return f"{head}.{signed[1]}."


def without_key_id(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256"}, claims, key("one"))


def by_another_key(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "one"}, claims, key("another"))


def by_the_clients_secret(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "HS256", "kid": "one"}, claims, OctKey.import_key(SECRET.ljust(32)))
