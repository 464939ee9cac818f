"""A running back office and a client for it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from multidict import CIMultiDict
from pydantic import SecretStr

from backoffice.app import make_app, routes
from backoffice.config import BackofficeSettings
from backoffice.listening import listening
from backoffice.passwords import Passwords
from backoffice.people import People
from backoffice.records import Records
from bridge.config import BridgeSettings
from bridge.registry import Registry, default
from tests.servers import IN_MEMORY

TOKENS = {role: f"{role}-token-0123456789" for role in ("viewer", "moderator", "operator", "admin")}
CHAT_KEY = "k" * 32
PASSWORD = "correct horse battery"
PATIENCE_S, REDIS_S = 30.0, 5.0  # for a call, and for Redis: the machine may be busy with other tests
_DEADLINES = ("routes.DEADLINE_S", "api.issuing.DEADLINE_S", "api.health.DEADLINE_S", "ui.frame.DEADLINE_S",
              "audit.ANSWER_S")  # fmt: skip


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Api:
    """Calls with the token of one role; paths are below /api/v1 unless they begin with //."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, role: str | None, stop: Callable[[], Awaitable[object]]
    ) -> None:
        self.url, self.role = url, role
        self.database = Path()
        self.stop = stop  # the service, and wait for its end
        self._session = session

    def as_(self, role: str | None) -> Api:
        """The same service, called with another role's token, or without one."""
        return Api(self._session, self.url, role, self.stop)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        redirects: bool = True,
    ) -> Answer:
        """``body`` is sent as JSON, ``data`` as it is."""
        sent = CIMultiDict(headers or {})
        if self.role is not None:
            sent.setdefault("Authorization", f"Bearer {TOKENS[self.role]}")
        if body is not None:
            data = orjson.dumps(body)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        if isinstance(data, bytes):
            data = io.BytesIO(data)  # the client warns of large bytes
        target = self.url + (path[1:] if path.startswith("//") else f"/api/v1{path}")
        skip = ("Content-Type",)
        options: dict[str, Any] = {"skip_auto_headers": skip, "allow_redirects": redirects}
        async with self._session.request(method, target, data=data, headers=sent, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.call("POST", path, body, **options)

    async def delete(self, path: str, **options: Any) -> Answer:
        return await self.call("DELETE", path, **options)

    async def issue(self, type: str, subject: str, payload: Mapping[str, Any], **options: Any) -> Answer:
        """Issue a command; ``wait`` and ``key`` are what they are, the rest goes into the body."""
        wait, key = options.pop("wait", None), options.pop("key", None)
        headers = {} if key is None else {"Idempotency-Key": key}
        path = "/commands" if wait is None else f"/commands?wait={wait}"
        return await self.post(path, {"type": type, "subject": subject, "payload": payload, **options}, headers=headers)


def settings(url: str, **options: Any) -> BridgeSettings:
    return BridgeSettings(redis_url=SecretStr(url), **{"shards": 8, **options})


@asynccontextmanager
async def backoffice(
    bridge: BridgeSettings,
    *,
    registry: Registry = default,
    chat_key: str | None = CHAT_KEY,
    database_url: str | None = None,
    prompt: bool = False,
    **options: Any,
) -> AsyncIterator[Api]:
    """A back office on a free port, and its client, with the role admin; ``options`` are further settings.

    Only a ``prompt`` one refuses a call that takes as long as it does on a machine that stalls for a moment.
    """
    with _directory() as directory, contextlib.nullcontext() if prompt else patient():
        path = Path(directory, "backoffice.sqlite3")
        if database_url is None:
            path.write_bytes(await _database())
        config = make_settings(database_url or f"sqlite+aiosqlite:///{path}", chat_key, **options)
        if bridge.journal is None:  # as the command has one by default
            bridge = bridge.model_copy(update={"journal": Path(directory, "journal")})
        async with _serving(config, bridge, registry) as api:
            api.database = path
            yield api


def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="backoffice-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)


@contextmanager
def patient() -> Iterator[None]:
    """Back offices wait for Redis and their database longer than people would."""

    def patient_routes(settings: BackofficeSettings) -> tuple[Any, ...]:
        return tuple(route if route.deadline_s is None else replace(route, deadline_s=PATIENCE_S)
                     for route in routes(settings))  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        for name in _DEADLINES:
            patch.setattr(f"backoffice.{name}", PATIENCE_S)
        patch.setattr("backoffice.app.DEADLINE_S", REDIS_S)
        patch.setattr("backoffice.app.routes", patient_routes)
        yield


_made: list[bytes] = []


async def _database() -> bytes:
    """A fresh database with its admin; made once, as a good hash of a password takes its time."""
    if not _made:
        with _directory() as directory:
            path = Path(directory, "backoffice.sqlite3")
            async with Records.open(f"sqlite+aiosqlite:///{path}") as records:
                await People(records, Passwords()).first_admin(PASSWORD)
            _made.append(path.read_bytes())
    return _made[0]


def make_settings(database_url: str, chat_key: str | None = CHAT_KEY, **options: Any) -> BackofficeSettings:
    return BackofficeSettings(
        port=0,
        database_url=SecretStr(database_url),
        admin_password=SecretStr(PASSWORD),
        api_tokens=SecretStr(",".join(f"{role}:{role}:{token}" for role, token in TOKENS.items())),
        demo_chat_key=None if chat_key is None else SecretStr(chat_key),
        **options,
    )


@asynccontextmanager
async def _serving(config: BackofficeSettings, bridge: BridgeSettings, registry: Registry) -> AsyncIterator[Api]:
    running: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def serve() -> None:  # in a task of its own, as fixtures begin and end in different ones
        try:
            app = make_app(config, bridge, registry=registry)
            async with listening(app, config.host, config.port, config.tls) as url:
                running.set_result(url)
                await stop.wait()
        except BaseException as error:
            if not running.done():
                running.set_exception(error)
            raise

    service = asyncio.create_task(serve(), name="backoffice")

    async def end() -> None:
        stop.set()
        await asyncio.wait((service,))

    try:
        url = await running
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            yield Api(session, url, "admin", end)
    finally:
        await end()
    service.result()
