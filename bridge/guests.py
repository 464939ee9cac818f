"""Who the command line is to chat nodes: tokens signed with the nodes' key, or asked of a demo's back office."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from bridge.errors import Misconfigured
from bridge.rest import RestApi

TOKEN_SECONDS: Final = 3600
SOURCES: Final = (
    "give --token, or --user with --jwt-key (the nodes' CHATSERVER_JWT_KEY), or with the --ready-file of a demo, "
    "or with its BACKOFFICE_URL and BACKOFFICE_TOKEN"
)

TokenFor = Callable[[str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Demo:
    """What the ready file of a demo says."""

    nodes: tuple[str, ...]
    rooms: tuple[str, ...]
    backoffice: str
    api_token: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises Misconfigured."""
        try:
            told = json.loads(path.read_text())
            nodes = tuple(node["url"] for node in told["nodes"])
            return cls(nodes, tuple(told["rooms"]), told["backoffice"], told["api_token"])
        except OSError as error:
            raise Misconfigured(f"cannot read {path}: {error.strerror}; the demo writes it with --ready-file") from None
        except (ValueError, KeyError, TypeError):
            raise Misconfigured(f"{path} is no ready file of a demo") from None


@contextlib.asynccontextmanager
async def tokens(*, token: str | None, key: str | None, backoffice: tuple[str, str] | None) -> AsyncIterator[TokenFor]:
    """Where tokens come from, the first of these that is there. Raises Misconfigured."""
    if token:
        yield lambda user: _same(token)
    elif key:
        secret = key  # a name that the function below sees as a str
        yield lambda user: _sign(secret, user)
    elif backoffice:
        async with RestApi.connect(*backoffice) as api:
            yield lambda user: _ask(api, user)
    else:
        raise Misconfigured(f"who are you to the nodes? {SOURCES}")


async def _same(token: str) -> str:
    return token


async def _sign(key: str, user: str) -> str:
    if key.lstrip().startswith(("{", "https://", "http://")):
        raise Misconfigured("--jwt-key is a key set, which cannot sign: sign where the keys are, and give --token")
    try:
        return jwt.encode(
            {"alg": "HS256"}, {"sub": user, "exp": int(time.time()) + TOKEN_SECONDS}, OctKey.import_key(key)
        )
    except (JoseError, ValueError) as error:
        raise Misconfigured(f"--jwt-key cannot sign: {error}") from None


async def _ask(api: RestApi, user: str) -> str:
    answer = await api.call("GET", "/chat-token", query={"user": user})
    return str(answer["token"])
