"""Plain HTTP on the port that clients use: /healthz, /readyz and /metrics for monitoring; the rest is for pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from websockets.http11 import Request, Response

from bridge import telemetry
from bridge.findings import CODES
from bridge.self_check import SelfCheck, count
from chatserver.connection import Connection
from chatserver.pages import Pages
from chatserver.responses import respond, respond_json

# Of dead letters that a handler had: any other may claim to be of any type, and there are too many of these.
_HANDLED = frozenset({"attempts_used_up", "killed_its_node", "timed_out", "effects_failed"})

Check = Callable[[], Awaitable[str | None]]  # None is well, else what is wrong


class Metrics:
    """Counters of one node. No labels of rooms or users: there are too many of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._refused = Counter("chat_refused", "Frames answered with an error", ["code"], registry=self.registry)
        self._closed = Counter("chat_closed", "Sessions that ended", ["code"], registry=self.registry)
        self._settled = Counter("chat_commands", "Commands ended here", ["type", "state"], registry=self.registry)
        self._waited = Histogram("chat_command_wait_seconds", "From accepted to handled", registry=self.registry)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """A gauge that is asked for when somebody looks."""
        Gauge(name, about, registry=self.registry).set_function(value)

    def watch_findings(self, check: SelfCheck) -> None:
        """What the self-check finds wrong, by severity and code."""
        gauge = Gauge("bridge_self_check_findings", "What the self-check finds wrong", ["severity", "code"],
                      registry=self.registry)  # fmt: skip
        for severity, code in CODES:
            gauge.labels(severity, code).set_function(partial(count, check, severity, code))

    def refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def closed(self, socket: Connection) -> None:
        """Count by our code; where the client closed or vanished, that is one kind."""
        self._closed.labels("client" if socket.closed_with is None else str(socket.closed_with)).inc()

    def listen(self, event: object) -> None:
        match event:
            case telemetry.Settled():
                self._settled.labels(event.type, event.state).inc()
                self._waited.observe(event.waited_s)
            case telemetry.Buried():
                self._settled.labels(event.type if event.code in _HANDLED else "-", "dead").inc()


class Health:
    """Answers plain HTTP requests; anything but ``/ws`` never becomes a websocket."""

    def __init__(self, checks: Mapping[str, Check], metrics: Metrics, pages: Pages) -> None:
        self._checks, self._metrics, self._pages = checks, metrics, pages

    async def respond(self, request: Request) -> Response | None:
        """None for a websocket handshake, which goes on."""
        path = request.path.partition("?")[0]
        if path == "/ws":
            return None
        if path not in ("/healthz", "/readyz", "/metrics"):
            return await self._pages.respond(request)
        if request.method not in ("GET", "HEAD"):
            return respond(request, 405, "text/plain", b"")
        match path:
            case "/healthz":
                return respond_json(request, 200, {"status": "ok"})
            case "/readyz":
                return await self._readiness(request)
            case _:
                return respond(request, 200, CONTENT_TYPE_LATEST, generate_latest(self._metrics.registry))

    async def _readiness(self, request: Request) -> Response:
        found = {name: await check() for name, check in self._checks.items()}
        ready = not any(found.values())
        body = {"status": "ready" if ready else "unavailable", "checks": {n: w or "ok" for n, w in found.items()}}
        return respond_json(request, 200 if ready else 503, body)
