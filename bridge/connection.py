"""The process' one client: calls go to the primary that owns their key, over one auto-batching connection each.

What a server did not take (not connected, not ours any more, loading) is sent again, to wherever the
primary is by then, until the deadline. What was sent and not answered is never sent again here: its
outcome is unknown, and only the caller knows whether it may be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from bridge.errors import BridgeError, NotTaken
from bridge.link import Argument, Endpoint, Link
from bridge.scripts import Script
from bridge.telemetry import Connected, Disconnected, PlacementChanged, StepFailed, Telemetry
from bridge.topology import Placement, Topology
from bridge.urls import topology_of

DEFAULT_TIMEOUT_S = 1.0  # per call and per connection attempt; fail-over detection must be at least twice that
START_TIMEOUT_S = 10.0  # for the first connection of a process: Redis may be as busy as the machine is at its start
LOOK_EVERY_S = 1.0  # for primaries that moved without telling us
LOOK_OFTEN_S = 0.1  # while one is not connected, or about to be replaced
_RECONNECT_FIRST_S, _RECONNECT_MOST_S = 0.02, 0.5
_LOOK_AT_MOST_EVERY_S = 0.05
_KEYLESS = frozenset({"PING", "TIME", "CONFIG", "INFO"})


class Server:
    """The connection to one primary, which comes back by itself."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        telemetry: Telemetry,
        timeout: float,
        scripts: Sequence[Script],
        on_open: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.endpoint = endpoint
        self.link: Link | None = None
        self._on_open, self._on_lost = on_open, on_lost
        self._telemetry, self._timeout, self._scripts = telemetry, timeout, scripts
        self._changed = asyncio.Event()  # up, or closed for good
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self, patience_s: float = 0.0) -> None:
        """Connect once, and take longer than a call may if need be. Raises Unreachable, or Misconfigured."""
        link = await Link.open(
            self.endpoint, timeout=self._timeout, patience_s=patience_s, scripts=self._scripts, on_lost=self._lost
        )
        if self._closed:
            link.close()
            return
        self.link = link
        self._changed.set()
        self._telemetry.emit(Connected(str(self.endpoint)))
        self._on_open()

    def open_soon(self) -> None:
        """Connect in the background, however often it takes."""
        self._changed.clear()
        self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(), name=f"connect-{self.endpoint}")

    def _lost(self, cause: str) -> None:
        if self.link is None or self._closed:
            return
        self.link = None
        self._telemetry.emit(Disconnected(str(self.endpoint), cause))
        self.open_soon()
        self._on_lost()

    async def _reconnect(self) -> None:
        pause = _RECONNECT_FIRST_S
        while not self._closed and self.link is None:
            try:
                await self.open()
            except BridgeError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RECONNECT_MOST_S)

    async def changed(self, within_s: float) -> None:
        """Wait until it is up or closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()

    async def close(self) -> None:
        self._closed = True
        self._changed.set()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.gather(self._reconnecting, return_exceptions=True)
        if self.link is not None:
            link, self.link = self.link, None
            link.close("the primary is another one now")


class Redis:
    """See the module. Blocking commands do not belong on it."""

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
        self._topology = topology_of(url)
        self._telemetry = telemetry or Telemetry()
        self._scripts = tuple(scripts)
        self._servers: dict[Endpoint, Server] = {}
        self._only: Server | None = None  # where one server owns every key
        self.placement = Placement(())
        self._moved: list[Callable[[], None]] = []
        self._opened: list[Callable[[], None]] = []
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._look_failed = False  # said so already
        self._stirred = asyncio.Event()  # reason to look before it is time
        self._watching: list[asyncio.Task[None]] = []
        self._closed = False

    @classmethod
    async def connect(cls, url: str, *, patience_s: float = 0.0, **options: Any) -> Redis:
        """Connected, with all ``scripts`` loaded; a server without others has ``patience_s`` to let us in.

        Raises Unreachable, or Misconfigured.
        """
        redis = cls(url, **options)
        if not redis._topology.fixed:  # one of several that is silent may be about to be replaced
            patience_s = 0.0
        try:
            placement = await redis._topology.look(max(redis.timeout, patience_s))
            await redis._place(placement, lambda server: server.open(patience_s))
        except BaseException:
            await redis.close()
            raise
        if not redis._topology.fixed:
            listening = redis._topology.listen(redis.look_soon, complain=redis._cannot_listen, timeout=redis.timeout)
            redis._watching = [
                asyncio.create_task(redis._keep_looking(), name="topology"),
                asyncio.create_task(listening, name="topology-listen"),
            ]
        return redis

    def on_moved(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever keys have another primary than before."""
        self._moved.append(listener)

    def on_connected(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever a primary is connected, for the first time or again."""
        self._opened.append(listener)

    @property
    def topology(self) -> Topology:
        """How the primaries are found."""
        return self._topology

    @property
    def primaries(self) -> dict[str, Link | None]:
        """The primaries, by name, and the connections to those that are there."""
        return {str(endpoint): server.link for endpoint, server in self._servers.items()}

    @property
    def links(self) -> dict[str, Link]:
        """The connections to the primaries, by name. Raises NotTaken if one is missing."""
        links = self.primaries
        if None in links.values():
            raise NotTaken("a primary is not connected")
        return {name: link for name, link in links.items() if link is not None}

    def link_to(self, key: Argument) -> Link | None:
        """The connection to the primary that has ``key``, if it is up. Another life of the server is another one."""
        return self._link(("", key))

    @property
    def connected(self) -> bool:
        """Whether every primary is."""
        return bool(self._servers) and all(server.link is not None for server in self._servers.values())

    def send(self, *arguments: Argument) -> asyncio.Future[Any]:
        """Queue a call for this turn's write. Not connected: the future fails with NotTaken at once."""
        link = self._link(arguments)
        return link.send(*arguments) if link is not None else _not_taken()

    def send_script(
        self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]
    ) -> asyncio.Future[Any]:
        """The same for a script; it goes where its first key is."""
        link = self._only.link if self._only is not None else self._link(("", keys[0]))
        return link.send_script(script, keys, arguments) if link is not None else _not_taken()

    async def call(self, *arguments: Argument) -> Any:
        """One call and its answer; strings come as bytes.

        Raises Unreachable (the outcome is unknown) or its kind NotTaken (nothing was done),
        ServerFull, Fenced, ServerError.
        """
        try:
            return await self.send(*arguments)
        except NotTaken as error:
            return await self._again(lambda: self.send(*arguments), arguments, error)

    async def run(self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Any:
        """One script call and its answer, as in ``call``."""
        try:
            return await self.send_script(script, keys, arguments)
        except NotTaken as error:
            return await self._again(lambda: self.send_script(script, keys, arguments), ("", keys[0]), error)

    async def each(self, *arguments: Argument) -> list[Any]:
        """One call on every primary, and the answers."""
        return await asyncio.gather(*(link.send(*arguments) for link in self.links.values()))

    async def close(self) -> None:
        """Calls that wait fail at once from now on, as do those that come."""
        self._closed = True
        for task in (*self._watching, self._looking):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(server.close() for server in self._servers.values()))
        self._servers, self._only = {}, None

    def _server(self, arguments: Sequence[Argument]) -> Server | None:
        if self._only is not None:
            return self._only
        if len(arguments) < 2 or arguments[0] in _KEYLESS:
            return next((server for server in self._servers.values() if server.link is not None), None)
        key = arguments[1]
        assert isinstance(key, str | bytes), key
        owner = self.placement.owner(key) if self.placement.primaries else None
        return self._servers.get(owner) if owner is not None else None

    def _link(self, arguments: Sequence[Argument]) -> Link | None:
        server = self._server(arguments)
        return server.link if server is not None else None

    async def _again(self, send: Callable[[], Awaitable[Any]], where: Sequence[Argument], error: NotTaken) -> Any:
        """Until the deadline: find the primary, wait for its connection, send."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        while not self._closed and (left := deadline - loop.time()) > 0:
            server = self._server(where)
            if server is not None and server.link is None and self._topology.fixed:
                await server.changed(left)
            else:
                await self.look(left)
            try:
                return await send()
            except NotTaken as again:
                error = again
        raise error

    async def look(self, within_s: float | None = None) -> None:
        """Find out where the primaries are; everybody who asks meanwhile shares the one look.

        ``within_s`` None: as long as a call may take.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_once(), name="topology-look")
        await asyncio.wait((self._looking,), timeout=self.timeout if within_s is None else within_s)

    async def _look_once(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._looked_at + _LOOK_AT_MOST_EVERY_S - loop.time()))
        self._looked_at = loop.time()
        if self._topology.fixed:
            return
        try:
            await self._place(await self._topology.look(self.timeout), _open_soon)
            self._look_failed = False
        except BridgeError as error:
            if not self._look_failed:
                self._telemetry.emit(StepFailed("topology", str(error)))
            self._look_failed = True

    def _tell_connected(self) -> None:
        for listener in self._opened:
            listener()

    def look_soon(self) -> None:
        """Something happened that may come from a fail-over."""
        self._stirred.set()

    def _cannot_listen(self, error: BridgeError) -> None:
        self._telemetry.emit(StepFailed("topology-listen", str(error)))

    async def _keep_looking(self) -> None:
        while True:
            calm = self.connected and not self._topology.restless
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S if calm else LOOK_OFTEN_S):
                    await self._stirred.wait()
            self._stirred.clear()
            await self.look()

    async def _place(self, placement: Placement, connect: Callable[[Server], Awaitable[None]]) -> None:
        """Have a connection to each primary and to nobody else."""
        if placement == self.placement:
            return
        new = [endpoint for endpoint in placement.primaries if endpoint not in self._servers]
        gone = [endpoint for endpoint in self._servers if endpoint not in placement.primaries]
        for endpoint in new:
            self._servers[endpoint] = Server(
                endpoint,
                telemetry=self._telemetry,
                timeout=self.timeout,
                scripts=self._scripts,
                on_open=self._tell_connected,
                on_lost=self.look_soon,
            )
        leaving = [self._servers.pop(endpoint) for endpoint in gone]
        first = not self.placement.primaries
        self.placement = placement
        self._only = self._servers[placement.primaries[0]] if placement.owners is None else None
        await asyncio.gather(*(connect(self._servers[endpoint]) for endpoint in new))
        await asyncio.gather(*(server.close() for server in leaving))
        if not first:
            self._telemetry.emit(PlacementChanged(tuple(str(endpoint) for endpoint in placement.primaries)))
        for listener in self._moved:
            listener()


async def _open_soon(server: Server) -> None:
    server.open_soon()


def _not_taken() -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(NotTaken("Redis is not connected; nothing was sent"))
    return future
