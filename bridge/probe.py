"""One visit to a chat node, step by step, each with the time it took: what works, and what does not."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.chat.client_events import ChatError, Closed
from bridge.chat.client_socket import PROTOCOL, Frame, Lost, Socket

PINGS: Final = 10
DELIVERY_S: Final = 5.0  # for a message to come back to the one who said it


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried."""

    step: str
    ok: bool
    ms: float
    detail: str = ""


@dataclass(slots=True)
class Visit:
    """What was found out, as ``--json`` prints it."""

    url: str
    ok: bool = False
    node: str | None = None
    user: str | None = None
    session: str | None = None
    heartbeat_ms: int | None = None
    clock_ms: int | None = None  # how far the node's clock is ahead of ours
    ping_ms: dict[str, float] | None = None
    steps: list[Step] = field(default_factory=list)
    error: dict[str, Any] | None = None  # of the step that failed: code, message


class Probe:
    """Visits one node. What goes wrong is in the visit, not raised."""

    def __init__(self, url: str, token: str, *, room: str | None = None, text: str | None = None) -> None:
        self._url, self._token, self._room, self._text = url, token, room, text
        self._visit = Visit(url)
        self._stage, self._since = "connect", 0.0
        self._heard = asyncio.Event()
        self._nonce = secrets.token_hex(6)

    async def visit(self) -> Visit:
        """Raises Misconfigured for an address that is none."""
        visit, self._since = self._visit, time.perf_counter()
        try:
            await self._call()
            visit.ok = True
        except (ChatError, Closed, Lost) as error:
            code = error.code if error.code is not None else "unreachable"
            message = error.message if isinstance(error, ChatError) else error.reason
            visit.error = {"code": code, "message": message}
            visit.steps.append(Step(self._stage, False, self._lap(), f"{code}: {message}"))
        return visit

    async def _call(self) -> None:
        socket = await Socket.open(self._url, self._token, {"name": "chatbridge ws-probe"}, self._passed)
        self._describe(socket)
        reading = asyncio.create_task(socket.run(self._hear))
        try:
            await self._try(socket)
        finally:
            await socket.close()
            await reading

    def _passed(self, stage: str) -> None:
        self._done(stage, PROTOCOL if stage == "hello" else "")
        self._stage = {"connect": "hello", "hello": "auth"}.get(stage, "")

    def _describe(self, socket: Socket) -> None:
        hello, ready, visit = socket.hello, socket.ready, self._visit
        visit.node, visit.heartbeat_ms = hello["node"], hello["heartbeat_ms"]
        visit.clock_ms = hello["server_time"] - int(time.time() * 1000)
        visit.user, visit.session = ready["user"]["user"], ready["session"]

    async def _try(self, socket: Socket) -> None:
        self._begin("ping")
        laps = []
        for _ in range(PINGS):
            self._since = time.perf_counter()
            await socket.ask("ping", {})
            laps.append(self._lap())
        self._visit.ping_ms = {"min": min(laps), "median": statistics.median(laps), "max": max(laps)}
        self._visit.steps.append(Step("ping", True, statistics.median(laps), f"median of {PINGS}"))
        if self._room is None:
            return
        self._begin("join")
        joined = await socket.ask("join", {"room": self._room})
        self._done("join", f"{self._room}: {joined['state']}, {joined['count']} there, offset {joined['offset']}")
        if self._text is not None:
            await self._say(socket, self._room, self._text)

    async def _say(self, socket: Socket, room: str, text: str) -> None:
        self._begin("say")
        said = await socket.ask("say", {"room": room, "text": text, "nonce": self._nonce})
        self._done("say", f"message {said['message_id']}")
        self._stage = "delivery"
        try:
            async with asyncio.timeout(DELIVERY_S):
                await self._heard.wait()
        except TimeoutError:
            raise ChatError("timeout", f"it did not come back within {DELIVERY_S:g} s", temporary=True) from None
        self._done("delivery", "from say to push")

    def _hear(self, frame: Frame) -> None:
        if frame.get("type") == "message" and frame.get("user") == self._visit.user and frame.get("text") == self._text:
            self._heard.set()

    def _begin(self, stage: str) -> None:
        self._stage, self._since = stage, time.perf_counter()

    def _done(self, step: str, detail: str) -> None:
        """``delivery`` counts from the say on, every other step from the end of the one before."""
        self._visit.steps.append(Step(step, True, self._lap(), detail))
        if step != "say":
            self._since = time.perf_counter()

    def _lap(self) -> float:
        return round((time.perf_counter() - self._since) * 1000, 3)


def as_rows(visit: Visit) -> list[list[str]]:
    return [[step.step, f"{step.ms:.1f} ms", "ok" if step.ok else "FAILED", step.detail] for step in visit.steps]


def summary(visit: Visit) -> Mapping[str, str]:
    """Facts for people, besides the steps."""
    if visit.node is None or visit.clock_ms is None:
        return {}
    return {"node": visit.node, "user": str(visit.user), "session": str(visit.session),
            "heartbeat": f"{visit.heartbeat_ms} ms", "clock": f"{visit.clock_ms:+} ms"}  # fmt: skip
