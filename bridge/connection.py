"""URL → a client that comes back by itself. Redis' errors become ours in `link`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import SSLConnection, parse_url

from bridge.errors import BridgeError, Misconfigured, Unreachable
from bridge.link import Argument, Endpoint, Link
from bridge.scripts import Script
from bridge.telemetry import Connected, Disconnected, Telemetry

DEFAULT_TIMEOUT_S = 1.0  # per call and per connection attempt; fail-over detection must be at least twice that
_RECONNECT_FIRST_S, _RECONNECT_MOST_S = 0.02, 0.5


def endpoint_of(url: str) -> Endpoint:
    """Read a server's URL. Raises Misconfigured with the choices."""
    scheme = urlsplit(url).scheme
    if scheme not in ("unix", "redis", "rediss"):
        raise Misconfigured(
            f"{scheme or url!r} is no Redis URL scheme here; use embedded://PATH, unix://PATH, redis:// or rediss://"
        )
    try:
        options: dict[str, Any] = dict(parse_url(url))
        is_tls = options.pop("connection_class", None) is SSLConnection
        tls = SSLConnection(**options).ssl_context.get() if is_tls else None
        return Endpoint(
            path=options.get("path"),
            host=options.get("host", "localhost"),
            port=options.get("port", 6379),
            username=options.get("username"),
            password=options.get("password"),
            database=int(options.get("db", 0)),
            tls=tls,
        )
    except (ValueError, TypeError, OSError) as error:
        raise Misconfigured(f"the Redis URL cannot be used: {error}") from None


class Redis:
    """One auto-batching connection that everybody in the process shares. Blocking commands do not belong here."""

    def __init__(
        self,
        url: str,
        *,
        telemetry: Telemetry | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        scripts: Iterable[Script] = (),
    ) -> None:
        self.url = url
        self.timeout = timeout
        self._endpoint = endpoint_of(url)
        self._telemetry = telemetry or Telemetry()
        self._scripts = tuple(scripts)
        self._link: Link | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()  # up, or closed for good
        self._closed = False

    @classmethod
    async def connect(cls, url: str, **options: Any) -> Redis:
        """Connected, with all ``scripts`` loaded. Raises Unreachable, or Misconfigured."""
        redis = cls(url, **options)
        await redis._open()
        return redis

    async def _open(self) -> None:
        self._link = await Link.open(self._endpoint, timeout=self.timeout, scripts=self._scripts, on_lost=self._lost)
        self._wanted.set()
        self._telemetry.emit(Connected(str(self._endpoint)))

    def _lost(self, cause: str) -> None:
        if self._link is None or self._closed:
            return
        self._link = None
        self._wanted.clear()
        self._telemetry.emit(Disconnected(str(self._endpoint), cause))
        self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(), name="redis-reconnect")

    async def _reconnect(self) -> None:
        pause = _RECONNECT_FIRST_S
        while True:
            try:
                return await self._open()
            except BridgeError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RECONNECT_MOST_S)

    @property
    def connected(self) -> bool:
        return self._link is not None

    def send(self, *arguments: Argument) -> asyncio.Future[Any]:
        """Queue a call for this turn's write. Not connected: the future fails with Unreachable at once."""
        return self._link.send(*arguments) if self._link is not None else self._unreachable()

    def send_script(
        self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]
    ) -> asyncio.Future[Any]:
        """The same for a script."""
        if self._link is None:
            return self._unreachable()
        return self._link.send_script(script, keys, arguments)

    async def call(self, *arguments: Argument) -> Any:
        """One call and its answer; strings come as bytes.

        Waits up to ``timeout`` for a connection first. Raises Unreachable (the outcome is
        unknown), ServerFull, Fenced, ServerError.
        """
        if self._link is None:
            await self.up()
        return await self.send(*arguments)

    async def run(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        """One script call and its answer, as in ``call``."""
        if self._link is None:
            await self.up()
        return await self.send_script(script, keys, arguments)

    async def up(self) -> None:
        """Return once connected. Raises Unreachable after ``timeout``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.timeout):
                await self._wanted.wait()
        if self._link is None:
            raise Unreachable(f"{self._endpoint}: {'closed' if self._closed else 'not connected'}")

    async def close(self) -> None:
        self._closed = True
        self._wanted.set()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reconnecting
        if self._link is not None:
            link, self._link = self._link, None
            link.close()

    def _unreachable(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(Unreachable(f"{self._endpoint}: not connected"))
        return future
