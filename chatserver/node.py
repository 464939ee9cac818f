"""One chat node: everything wired together, started and stopped in order, in one TaskGroup."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import orjson
import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

import chatserver.handlers  # noqa: F401 - registers them
from bridge.channels import Channel
from bridge.client import Bridge
from bridge.clock import every
from bridge.config import BridgeSettings
from bridge.envelope import Publication
from bridge.errors import BridgeError, Misconfigured
from bridge.findings import REFUSE
from bridge.telemetry import Joined, MembersChanged, StepFailed, Telemetry
from chatserver.auth import REFRESH_S, tokens_for
from chatserver.config import ChatSettings
from chatserver.connection import Connection, Handshakes
from chatserver.control import Control
from chatserver.follower import Follower
from chatserver.frames import MAX_FRAME_BYTES, PROTOCOL, Close
from chatserver.handover import HandOver
from chatserver.health import Health, Metrics
from chatserver.hub import Client, Hub
from chatserver.limits import Limits, Words
from chatserver.origins import lets_in
from chatserver.pages import DemoPage, Pages
from chatserver.receipts import Reporter
from chatserver.rooms import Rooms
from chatserver.session import Services, Session
from chatserver.state import ChatState

log = structlog.get_logger(__name__)

STEP_S: Final = 1.0  # presence is gathered for so long, too
FORGET_S: Final = 60.0
INBOX_FRAMES: Final = 16  # of one client, read from its socket and not yet handled


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a node serves."""

    name: str
    pid: int
    url: str
    health_url: str

    def json(self) -> bytes:
        return orjson.dumps(asdict(self))


class ChatNode:
    """See the module. ``run`` is its whole life."""

    def __init__(
        self,
        settings: ChatSettings,
        bridge_settings: BridgeSettings,
        *,
        telemetry: Telemetry | None = None,
        load_settings: Callable[[], ChatSettings] | None = None,
    ) -> None:
        self.settings, self._bridge_settings = settings, bridge_settings
        self.telemetry = telemetry or Telemetry()
        self._load_settings = load_settings or (lambda: settings)
        self.limits = Limits(settings.messages_per_s, settings.text_chars, Words.read(settings.words_file))
        self._tokens = tokens_for(
            settings.jwt_key.get_secret_value(), issuer=settings.jwt_issuer, audience=settings.jwt_audience
        )
        self.hub = Hub(settings.heartbeat_seconds)
        self._handover = HandOver(self.hub, settings.drain_seconds / 2)
        self._handshakes = Handshakes()
        self.metrics = Metrics()
        self.rooms: Rooms
        self.reporter: Reporter
        self._draining = asyncio.Event()  # operators asked for it
        self._stopping = self._was_going = False
        self._background: asyncio.TaskGroup

    async def run(self, stopping: asyncio.Event, ready: Callable[[Ready], None]) -> None:
        """Serve until ``stopping``; then finish what was begun and send everybody elsewhere.

        ``ready`` is called once clients may come. Raises Misconfigured, NameTaken, Unreachable.
        """
        name = self.settings.node_name
        joined = asyncio.Event()
        unlisten = self.telemetry.listen(
            lambda event: joined.set() if isinstance(event, Joined) and event.node == name else None, inline=True
        )
        try:
            async with (
                Bridge.connect(
                    self._bridge_settings.model_copy(update={"journal": None}),
                    telemetry=self.telemetry,
                    publishes=False,
                ) as bridge,
                asyncio.TaskGroup() as self._background,
            ):
                await self._run(bridge, stopping, joined, ready)
        finally:
            unlisten()

    async def _run(
        self, bridge: Bridge, stopping: asyncio.Event, joined: asyncio.Event, ready: Callable[[Ready], None]
    ) -> None:
        settings = self.settings
        services, control = await self._wire(bridge)
        # Following comes before the first client: what happens to it is heard from its first moment on.
        await control.start(bridge.shards)
        server = await self._listen(services, bridge)
        where = self._where(server)
        steps = [
            self._every(step, seconds)
            for step, seconds in (
                (self.hub.sweep, min(STEP_S, self.hub.heartbeat_s / 4)),
                (self._hand_clients_over, STEP_S),
                (self.rooms.step, STEP_S),
                (control.step, STEP_S),
                (services.state.forget_ended_sanctions, FORGET_S),
                (self._tokens.refresh, REFRESH_S / 10),
            )
        ]
        steps.append(self._background.create_task(self.reporter.run(), name="receipts"))
        handling = self._background.create_task(
            bridge.serve(
                settings.node_name,
                url=where.url,
                stats=lambda: {"sessions": len(self.hub.clients), "rooms": len(self.rooms)},
                draining=self._draining,
                drain_s=settings.drain_seconds / 2,
            )
        )
        try:
            if await self._before(joined, stopping):
                ready(where)
                await stopping.wait()
        finally:
            await self._stop(server, handling)
            self.rooms.close()  # or whoever reads a log that cannot be read would go on doing so
            control.close()
            with contextlib.suppress(BridgeError):  # of the last commands, this node's own among them
                await self.reporter.step()
            for step in steps:
                step.cancel()

    async def _wire(self, bridge: Bridge) -> tuple[Services, Control]:
        settings = self.settings
        await self._tokens.start()
        state = ChatState(bridge, settings.node_name)

        def follow(channel: Channel, deliver: Callable[[Publication], None], lost: Callable[[], None]) -> Follower:
            return Follower(
                channel,
                channels=bridge.channels,
                subscriptions=bridge.subscriptions,
                keys=bridge.keys,
                spawn=self._spawn,
                deliver=deliver,
                lost=lost,
                reconnected=lambda: control.reconnected(),  # noqa: PLW0108 - it does not exist yet
            )

        self.reporter = Reporter(bridge.receipts, settings.node_name, bridge.shards)
        self.metrics.watch(
            "chat_receipts_dropped", "Answers to commands that Redis never got", lambda: self.reporter.dropped
        )
        self.rooms = Rooms(state, settings.node_name, bridge.shards, follow)
        control = Control(
            self.hub,
            self.rooms,
            state,
            bridge.channels,
            follow=follow,
            spawn=self._spawn,
            reload=self._reload,
            reporter=self.reporter,
        )
        self.metrics.watch("chat_sessions", "Sessions on this node", lambda: len(self.hub.clients))
        self.metrics.watch_findings(bridge.self_check)
        self.metrics.watch("chat_rooms", "Rooms with members on this node", lambda: len(self.rooms))
        self.telemetry.listen(self.metrics.listen, inline=True)
        self.telemetry.listen(partial(self._nodes_changed, state), inline=True)
        services = Services(
            settings.node_name, bridge, state, self.rooms, self.hub, self._tokens, self.limits, self.metrics
        )
        return services, control

    def _nodes_changed(self, state: ChatState, event: object) -> None:
        if isinstance(event, MembersChanged) and event.node == self.settings.node_name:
            state.nodes_changed(event.live)

    async def _listen(self, services: Services, bridge: Bridge) -> Server:
        settings = self.settings
        health = Health(
            {
                "redis": lambda: _attempt(bridge.ping()),
                "subscriptions": lambda: _word("down", bridge.subscriptions.connected),
                "clock": lambda: _attempt(_right_clock(bridge)),
                "serving": lambda: _word("draining", not self._is_going()),
            },
            self.metrics,
            Pages(DemoPage(settings, bridge) if settings.demo_page else None),
        )

        async def request(connection: ServerConnection, request: Request) -> Response | None:
            response = await health.respond(request)
            if response is None and not lets_in(settings.origins, request.headers):
                return connection.respond(403, "Pages of this origin may not connect: see CHATSERVER_ORIGINS.\n")
            if response is None and self._is_going():
                return connection.respond(503, "This node is going away; connect to another.\n")
            return response

        async def connected(connection: ServerConnection) -> None:
            assert isinstance(connection, Connection)
            if connection.subprotocol != PROTOCOL:
                connection.shut(Close.VERSION, f"offer subprotocol {PROTOCOL}")
                await connection.wait_closed()
                return
            loop_time = asyncio.get_running_loop().time()
            await Session(Client(secrets.token_hex(8), connection, loop_time), services).run()

        return await serve(
            connected,
            settings.host,
            settings.port,
            select_subprotocol=_select,
            compression=None,  # 33 KiB a connection, and frames are built once for all of them
            process_request=request,
            server_header=None,
            open_timeout=10,
            ping_interval=None,  # the protocol has its own, which tells clients a code of ours
            close_timeout=3,
            max_size=MAX_FRAME_BYTES,
            max_queue=INBOX_FRAMES,
            write_limit=64 * 1024,
            create_connection=partial(Connection, limits=self.limits, handshakes=self._handshakes),  # type: ignore[arg-type]  # it is called
        )

    def _where(self, server: Server) -> Ready:
        settings = self.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        port = next(iter(server.sockets)).getsockname()[1]
        url = settings.public_url or f"ws://{host}:{port}/ws"
        return Ready(settings.node_name, os.getpid(), url, f"http://{host}:{port}/healthz")

    async def _stop(self, server: Server, handling: asyncio.Task[None]) -> None:
        self._stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_seconds):
                # Nobody new. Clients go, group after group, while what was begun is finished.
                server.close(close_connections=False)
                handling.cancel()
                await asyncio.gather(asyncio.wait((handling,)), self._hand_clients_over())
                self._handshakes.cut()
                await server.wait_closed()
        for client in tuple(self.hub.clients):
            client.socket.transport.abort()
        self._handshakes.cut()

    async def _hand_clients_over(self) -> None:
        """Send everybody elsewhere, if this node goes away or was asked to drain."""
        going = self._is_going()
        if going != self._was_going:
            self._was_going = going
            log.info(
                "clients are sent elsewhere" if going else "clients may come again", sessions=len(self.hub.clients)
            )
        if going:
            await self._handover.run("restart" if self._stopping else "drain", self._is_going)

    def _is_going(self) -> bool:
        return self._stopping or self._draining.is_set()

    async def _before(self, event: asyncio.Event, other: asyncio.Event) -> bool:
        """Whether ``event`` came, waiting for it no longer than until ``other`` did."""
        waits = [asyncio.ensure_future(each.wait()) for each in (event, other)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return event.is_set()

    def _reload(self) -> None:
        try:
            fresh = self._load_settings()
            words = Words.read(fresh.words_file)
        except BridgeError as error:  # what held before goes on
            self.telemetry.emit(StepFailed("config.reload", str(error)))
            return
        self.limits.messages_per_s, self.limits.text_chars, self.limits.words = (
            fresh.messages_per_s,
            fresh.text_chars,
            words,
        )
        log.info("limits and words read again", messages_per_s=fresh.messages_per_s, text_chars=fresh.text_chars)

    def _every(self, step: Callable[[], Any], seconds: float) -> asyncio.Task[None]:
        name = getattr(step, "__qualname__", "step")
        return self._background.create_task(every(seconds, step, name=name, telemetry=self.telemetry), name=name)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._background.create_task(self._guard(work))

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """What fails here is reported; it must not take the node with it."""
        try:
            await work
        except Exception as error:
            self.telemetry.emit(StepFailed(repr(work), f"{type(error).__name__}: {error}"))


def _select(connection: ServerConnection, offered: Any) -> Subprotocol | None:
    """Ours; else what the client offered first, because a browser does not see the close code of an upgrade refused."""
    if PROTOCOL in offered:
        return Subprotocol(PROTOCOL)
    return offered[0] if offered else None


async def _attempt(call: Coroutine[Any, Any, None]) -> str | None:
    try:
        await call
    except BridgeError as error:
        return str(error)
    return None


async def _right_clock(bridge: Bridge) -> None:
    """Of all that the self-check refuses only this is about one node: what is wrong with a server, all nodes see."""
    for finding in bridge.self_check.findings:
        if (finding.severity, finding.code) == (REFUSE, "clock_skew"):
            raise Misconfigured(str(finding))


async def _word(otherwise: str, well: bool) -> str | None:
    return None if well else otherwise
