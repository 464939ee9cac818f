"""Logging in at a provider of one's own organisation: OpenID Connect's authorization code with PKCE, as its client.

What the provider says is believed only from an ID token: signed by a key that the provider
publishes, for this client, for this login, and still fresh.
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from aiohttp import ClientError, ClientSession, ClientTimeout
from joserfc import jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError
from joserfc.jwk import Key, KeySet, import_key
from joserfc.jws import JWSRegistry, extract_compact
from yarl import URL

from backoffice.groups import Groups
from backoffice.operators import NAME, Role
from backoffice.problems import Problem, retry
from backoffice.proxies import is_loopback

# Signatures that take the provider's private key: neither "none" nor one made with what a client knows.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
ANSWER_S = 4.0  # of the provider, for each of its answers
ANSWER_BYTES = 1 << 18
KNOWN_S = 3600.0  # what the provider says of itself is read again after it
AGAIN_S = 2.0  # before it a provider that did not answer well is not asked again, nor for keys when a token fits none
LEEWAY_S = 30
_SIGNING = ("RSA", "EC", "OKP")
_MOST_KEYS = 50  # that one provider may have

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One login under way. Its browser keeps it, so that it ends where it began, on whichever back office."""

    state: str
    nonce: str
    verifier: str
    next: str  # where to go on afterwards

    @classmethod
    def new(cls, next_: str) -> Attempt:
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return cls(state, nonce, verifier, next_[:1000])

    @classmethod
    def unpack(cls, text: str) -> Attempt | None:
        parts = text.split(".")
        if len(parts) != 4 or not all(re.fullmatch(r"[\w-]+", part, re.ASCII) for part in parts):
            return None
        try:
            return cls(parts[0], parts[1], parts[2], base64.urlsafe_b64decode(parts[3] + "==").decode())
        except ValueError:
            return None

    def pack(self) -> str:
        return ".".join((self.state, self.nonce, self.verifier, _base64(self.next.encode())))

    @property
    def challenge(self) -> str:
        return _base64(sha256(self.verifier.encode()).digest())


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody as the provider knows them."""

    subject: str  # a digest of the provider and its own, lasting name for them
    names: tuple[str, ...]  # what they might be called here, best first
    role: Role


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What the provider says of itself."""

    authorization: URL
    token: URL
    keys: URL
    secret_in_form: bool  # it does not take the client's secret as HTTP's basic authentication


class Provider:
    """One provider. All methods raise Problem, which says what to do."""

    def __init__(
        self, issuer: str, client_id: str, client_secret: str | None, groups: Groups, scopes: str,
        clock: Callable[[], float] = time.time, ages: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """``clock`` is what tokens are held against; how old anything is here is told by ``ages``."""
        self.issuer = issuer
        self._client_id, self._client_secret = client_id, client_secret
        self._groups, self._scopes, self._clock, self._ages = groups, scopes, clock, ages
        self._asking = asyncio.Lock()
        self._endpoints: Endpoints | None = None
        self._keys: KeySet | None = None
        self._endpoints_at = self._keys_at = self._away_at = float("-inf")

    async def begin(self, attempt: Attempt, back: str) -> str:
        """Where the browser goes to log in; the provider sends it ``back``."""
        endpoints = await self._discover()
        return str(endpoints.authorization.update_query({
            "response_type": "code", "client_id": self._client_id, "redirect_uri": back, "scope": self._scopes,
            "state": attempt.state, "nonce": attempt.nonce,
            "code_challenge": attempt.challenge, "code_challenge_method": "S256",
        }))  # fmt: skip

    async def finish(self, attempt: Attempt, code: str, back: str) -> Person:
        """Who has come back with this code."""
        endpoints = await self._discover()
        claims = await self._verify(await self._exchange(endpoints, attempt, code, back), endpoints)
        self._check(claims, attempt)
        role = self._groups.role(claims)
        if role is None:
            known = ", ".join(self._groups.roles)
            raise Problem("forbidden", f"none of your groups may work here: the claim {self._groups.claim!r} has to "
                          f"hold one of {known}")  # fmt: skip
        subject = sha256(f"{self.issuer}\n{claims['sub']}".encode()).hexdigest()
        return Person(subject, _names(claims, subject), role)

    async def _exchange(self, endpoints: Endpoints, attempt: Attempt, code: str, back: str) -> str:
        """The ID token that the code is good for."""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back,
                "code_verifier": attempt.verifier}  # fmt: skip
        headers: dict[str, str] = {}
        if self._client_secret is None or endpoints.secret_in_form:
            form |= {"client_id": self._client_id}
            form |= {} if self._client_secret is None else {"client_secret": self._client_secret}
        else:
            pair = f"{quote(self._client_id, safe='')}:{quote(self._client_secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        status, answer = await self._ask("POST", endpoints.token, data=form, headers=headers)
        if status == 200 and isinstance(answer.get("id_token"), str):
            return str(answer["id_token"])
        error = str(answer.get("error", f"status {status}"))[:60]
        if error == "invalid_grant":
            raise Problem("forbidden", "the login provider does not take this code (any more): log in again")
        raise retry("unavailable", f"the login provider refuses ({error}): are BACKOFFICE_OIDC_CLIENT_ID and "
                    "BACKOFFICE_OIDC_CLIENT_SECRET right, and does it know this address?", AGAIN_S)  # fmt: skip

    async def _verify(self, token: str, endpoints: Endpoints) -> dict[str, Any]:
        """What a token says that the provider has signed."""
        try:
            try:
                return _signed(token, await self._key_set(endpoints))
            except (InvalidKeyIdError, BadSignatureError):  # keys are changed now and then, some under their old names
                return _signed(token, await self._key_set(endpoints, newer=True))
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise _unbelievable(str(error)) from None

    def _check(self, claims: Mapping[str, Any], attempt: Attempt) -> None:
        essential: dict[str, Any] = {name: {"essential": True} for name in ("sub", "exp", "iat", "nonce")}
        essential |= {"iss": {"essential": True, "value": self.issuer},
                      "aud": {"essential": True, "value": self._client_id}}  # fmt: skip
        try:
            jwt.JWTClaimsRegistry(lambda: int(self._clock()), LEEWAY_S, **essential).validate(dict(claims))
        except JoseError as error:
            raise _unbelievable(str(error)) from None
        if claims["nonce"] != attempt.nonce:
            raise _unbelievable("it is of another login")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else self._client_id) != self._client_id:
            raise _unbelievable("it was made for another client")

    async def _discover(self) -> Endpoints:
        async with self._asking:
            if self._endpoints is None or self._ages() - self._endpoints_at > KNOWN_S:
                where = URL(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
                self._endpoints, self._endpoints_at = await self._fetch(where, self._read), self._ages()
            return self._endpoints

    def _read(self, told: Mapping[str, Any]) -> Endpoints:
        if told.get("issuer") != self.issuer:
            said = str(told.get("issuer"))[:200]
            raise self._away(f"it calls itself {said!r}: set BACKOFFICE_OIDC_ISSUER to that, to the letter")
        authorization, token, keys = (
            self._url(told.get(name)) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")
        )
        if "S256" not in _strings(told, "code_challenge_methods_supported", "S256"):
            raise self._away("it does not do PKCE with S256")
        ways = _strings(told, "token_endpoint_auth_methods_supported", "client_secret_basic")
        return Endpoints(authorization, token, keys, "client_secret_basic" not in ways)

    def _url(self, told: object) -> URL:
        try:
            url = URL(str(told))
        except ValueError:
            url = URL()
        if not is_private(url):
            raise self._away(f"it names {str(told)[:200]!r}, which is no https address")
        return url

    async def _key_set(self, endpoints: Endpoints, *, newer: bool = False) -> KeySet:
        async with self._asking:
            age = self._ages() - self._keys_at
            if self._keys is None or age > KNOWN_S or (newer and age > AGAIN_S):
                self._keys, self._keys_at = await self._fetch(endpoints.keys, self._read_keys), self._ages()
            return self._keys

    def _read_keys(self, told: Mapping[str, Any]) -> KeySet:
        """Those that can be used here; others may be for other things, or of a kind that is yet to come."""
        listed = told.get("keys")
        keys = [key for each in (listed if isinstance(listed, list) else [])[:_MOST_KEYS] if (key := _key(each))]
        if not keys:
            raise self._away("its keys cannot be read: there is none of RSA, EC or Ed25519 that signs")
        return KeySet(keys)

    async def _fetch(self, url: URL, read: Callable[[Mapping[str, Any]], T]) -> T:
        """What the provider publishes there. While it has nothing that can be used, it is left alone in between."""
        if self._ages() - self._away_at < AGAIN_S:
            raise self._away("it did not answer, or nothing of use, a moment ago")
        try:
            status, told = await self._ask("GET", url)
            if status != 200:
                raise self._away(f"{url} answers with status {status}")
            return read(told)
        except Problem:
            self._away_at = self._ages()
            raise

    async def _ask(self, method: str, url: URL, **options: Any) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of an answer, which is bounded in time and size."""
        options["headers"] = {"Accept": "application/json", "Accept-Encoding": "identity", **options.get("headers", {})}
        timeout = ClientTimeout(total=ANSWER_S)
        try:
            async with (
                ClientSession(timeout=timeout, auto_decompress=False) as http,
                http.request(method, url, allow_redirects=False, **options) as response,
            ):
                status, body = response.status, b""
                async for part in response.content.iter_any():
                    body += part
                    if len(body) > ANSWER_BYTES:
                        raise self._away(f"{url} answers with more than {ANSWER_BYTES} bytes")
        except (ClientError, TimeoutError, OSError) as error:
            raise self._away(f"{url}: {str(error) or type(error).__name__}"[:300]) from None
        try:
            told = orjson.loads(body)
        except orjson.JSONDecodeError:
            told = None
        if not isinstance(told, dict):
            raise self._away(f"{url} answers with status {status} and no JSON object")
        return status, told

    def _away(self, why: str) -> Problem:
        return retry("unavailable", f"the login provider {self.issuer} cannot be used now: {why}; log in with "
                     "a password, or tell who runs it", AGAIN_S)  # fmt: skip


def is_private(url: URL) -> bool:
    """Whether nobody on the way can read along."""
    return bool(url.host) and (url.scheme == "https" or (url.scheme == "http" and is_loopback(url.host or "")))


def _key(told: object) -> Key | None:
    """None: not one to check signatures with, or not one that is understood (RFC 7517, section 5)."""
    if not isinstance(told, dict) or told.get("kty") not in _SIGNING or told.get("use") == "enc":
        return None
    try:
        key = import_key(told)
        key.ensure_kid()
    except (JoseError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return key


def _signed(token: str, keys: KeySet) -> dict[str, Any]:
    """What the token says. Raises InvalidKeyIdError or BadSignatureError if none of these keys has signed it."""
    registry = JWSRegistry(algorithms=ALGORITHMS)
    if extract_compact(token.encode(), registry=registry).headers().get("kid"):
        return jwt.decode(token, keys, registry=registry).claims
    for key in keys:  # it does not name one
        try:
            return jwt.decode(token, key, registry=registry).claims
        except JoseError:
            continue
    raise BadSignatureError


def _unbelievable(why: str) -> Problem:
    return Problem("forbidden", f"the login provider's answer is not believed ({why[:200]}): log in again")


def _strings(told: Mapping[str, Any], name: str, default: str) -> list[object]:
    """A list that the provider may leave out."""
    value = told.get(name)
    return value if isinstance(value, list) else [default]


def _names(claims: Mapping[str, Any], subject: str) -> tuple[str, ...]:
    given = [claims.get(name) for name in ("preferred_username", "email")]
    names = [name for name in given if isinstance(name, str) and re.fullmatch(NAME, name)]
    return *names, f"{(names or ['operator'])[0][:40]}.{subject[:12]}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
