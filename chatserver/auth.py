"""Who a client is: the token in its first frame, a JWT signed with a shared secret or a key of a JWKS."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog
from aiohttp import ClientSession, ClientTimeout
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet, OctKey
from joserfc.jws import JWSRegistry
from pydantic import TypeAdapter, ValidationError

from bridge.chat.commands import Id
from bridge.errors import Misconfigured

log = structlog.get_logger(__name__)

LEEWAY_S: Final = 5
MIN_SECRET_BYTES: Final = 32
MAX_NAME_CHARS: Final = 64
FETCH_S: Final = 5.0
MAX_KEY_SET_BYTES: Final = 1 << 20
REFETCH_S: Final = 5.0  # between two times that a key set is asked for, because tokens name a key that it lacks
REFRESH_S: Final = 300.0  # age of a key set at which it is asked for in any case: a key may have been withdrawn
MAX_WAITING: Final = 1000  # for the next key set; others are to come again, and then it is there
_FOR_EVER: Final = 1 << 53
_UNKNOWN_KEY: Final = "the token is signed by an unknown key"

_SIGNED_BY_KEY_SET: Final = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519",
                             "EdDSA", "HS256"]  # fmt: skip
_ID: Final = TypeAdapter(Id)


class BadToken(Exception):
    """The token does not prove who this is; the text may be shown to the client."""


class KeysAway(Exception):
    """The token names a key that is not known, and just now nobody says which there are: it may be a good one."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the keys of tokens cannot be asked for; try again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Identity:
    """A client's user, as its token says."""

    user: str
    name: str
    expires_at: float  # seconds since the epoch, without leeway


Fetch = Callable[[], Awaitable[bytes]]


class Tokens:
    """Checks tokens. ``key`` is a secret of at least 32 bytes, the JSON of a JWKS, or – with ``fetch`` – absent."""

    def __init__(
        self,
        key: str | None = None,
        *,
        fetch: Fetch | None = None,
        issuer: str | None = None,
        audience: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fetch, self._clock = fetch, clock
        self._asking = asyncio.Lock()
        self._waiting = 0
        # By the monotonic clock: when it was asked for last, when that had ended, and when it was read last.
        self._asked_at = self._answered_at = self._read_at = float("-inf")
        self._answered_well = True
        self._key: OctKey | KeySet | None = None if key is None else _read_key(key)
        options: dict[str, Any] = {"sub": {"essential": True}, "exp": {"essential": True}}
        if issuer is not None:
            options["iss"] = {"essential": True, "value": issuer}
        if audience is not None:
            options["aud"] = {"essential": True, "value": audience}
        self._claims = jwt.JWTClaimsRegistry(now=lambda: int(clock()), leeway=LEEWAY_S, **options)

    async def start(self) -> None:
        """Fetch the key set, if there is one to fetch. Raises Misconfigured if that fails."""
        if self._fetch is None:
            return
        try:
            await self._refetch()
        except Exception as error:
            raise Misconfigured(f"CHATSERVER_JWT_KEY: the key set cannot be read: {error}") from error

    async def refresh(self) -> None:
        """Fetch the key set if it is ``REFRESH_S`` old. While nobody tells the keys, those that were known hold."""
        if self._fetch is None or time.monotonic() < self._read_at + REFRESH_S:
            return
        with contextlib.suppress(KeysAway):
            async with self._asking:
                await self._ask_again()

    async def check(self, token: str) -> Identity:
        """Raises BadToken, KeysAway.

        A key is unknown when a key set lacks it that was asked for after the token came: clients take the answer as
        final, and keys are replaced at any time. Strangers may name as many keys as they like. All who wait share the
        next key set, which comes ``REFETCH_S`` after the last at the soonest, and nobody else waits.
        """
        came = time.monotonic()
        try:
            return self._check(token)
        except InvalidKeyIdError as error:
            if self._fetch is None:
                raise BadToken(_UNKNOWN_KEY) from error
        if self._waiting >= MAX_WAITING:
            raise KeysAway(REFETCH_S)
        self._waiting += 1
        try:
            async with self._asking:
                return await self._check_fresh(token, came)
        finally:
            self._waiting -= 1

    async def _check_fresh(self, token: str, came: float) -> Identity:
        while True:
            try:
                return self._check(token)
            except InvalidKeyIdError as error:
                if self._answered_well and self._asked_at >= came:
                    raise BadToken(_UNKNOWN_KEY) from error
            await self._ask_again()

    async def _ask_again(self) -> None:
        """Fetch the key set as soon as that may be. Raises KeysAway, at once if the last time was too little ago."""
        wait = self._answered_at + REFETCH_S - time.monotonic()
        if wait > 0:
            if not self._answered_well:
                raise KeysAway(wait)
            await asyncio.sleep(wait)
        try:
            await self._refetch()
        except Exception as error:
            log.warning("the key set cannot be read", error=f"{type(error).__name__}: {error}")
            raise KeysAway(REFETCH_S) from error

    def _check(self, token: str) -> Identity:
        assert self._key is not None
        algorithms = ["HS256"] if isinstance(self._key, OctKey) else _SIGNED_BY_KEY_SET
        try:
            decoded = jwt.decode(token, self._key, registry=JWSRegistry(algorithms=algorithms))
            self._claims.validate(decoded.claims)
        except InvalidKeyIdError:
            raise
        except JoseError as error:
            raise BadToken(f"the token is not valid: {_sayable(error.description or error.error)}") from error
        except (ValueError, TypeError, RecursionError) as error:
            raise BadToken("the token cannot be read") from error
        return _identity(decoded.claims)

    async def _refetch(self) -> None:
        assert self._fetch is not None
        self._asked_at, self._answered_well = time.monotonic(), False
        try:
            key = _read_key((await self._fetch()).decode())
            if not isinstance(key, KeySet):
                raise ValueError("no JSON Web Key Set")
            self._key, self._answered_well, self._read_at = key, True, time.monotonic()
        finally:
            self._answered_at = time.monotonic()


def _read_key(text: str) -> OctKey | KeySet:
    if text.lstrip().startswith("{"):
        try:
            return KeySet.import_key_set(orjson.loads(text))
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise Misconfigured(f"CHATSERVER_JWT_KEY looks like a JWKS and is none: {error}") from error
    secret = text.encode()
    if len(secret) < MIN_SECRET_BYTES:
        raise Misconfigured(
            f"CHATSERVER_JWT_KEY has {len(secret)} bytes; use at least {MIN_SECRET_BYTES} random ones, or a JWKS"
        )
    return OctKey.import_key(secret)


def _sayable(fault: str) -> str:
    """What the client may be told: the fault quotes its token, which may have half a character in it."""
    return fault.encode("ascii", "backslashreplace").decode()


def _identity(claims: dict[str, Any]) -> Identity:
    try:
        user = _ID.validate_python(claims["sub"], strict=True)
    except ValidationError:
        raise BadToken("the token's sub is no user id: 1-64 of A-Z a-z 0-9 . _ @ + -") from None
    name = claims.get("name", user)
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS or not _is_text(name):
        raise BadToken(f"the token's name must have 1-{MAX_NAME_CHARS} characters")
    return Identity(user, name, float(min(claims["exp"], _FOR_EVER)))


def _is_text(name: str) -> bool:
    """Whether it is in characters; JSON may have halves of them, which nobody could be sent."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def fetch_from(url: str) -> Fetch:
    """Read a key set over HTTP. Raises ValueError if it is larger than any."""

    async def fetch() -> bytes:
        timeout = ClientTimeout(total=FETCH_S)
        async with ClientSession(timeout=timeout, raise_for_status=True) as http, http.get(url) as response:
            body = b""
            async for part in response.content.iter_any():
                body += part
                if len(body) > MAX_KEY_SET_BYTES:
                    raise ValueError(f"{url} answers with more than {MAX_KEY_SET_BYTES} bytes")
            return body

    return fetch


def tokens_for(key: str, *, issuer: str | None, audience: str | None) -> Tokens:
    """``key`` is a secret, the JSON of a JWKS, or where to fetch one. Raises Misconfigured."""
    if key.startswith(("https://", "http://")):
        return Tokens(fetch=fetch_from(key), issuer=issuer, audience=audience)
    return Tokens(key, issuer=issuer, audience=audience)
