"""One pipelined connection to one server, RESP3, with a deadline of its own. `connection` replaces a lost one.

All calls of one turn of the event loop leave in one write, and replies are matched by
order. That is what makes an awaited publish cheap (bench/publish): a pool of connections
pays a system call and a timer for each. A reply that takes longer than ``timeout`` cuts
the connection, because what was sent on it has an unknown outcome either way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, cast

import hiredis

from bridge.errors import BridgeError, Fenced, Misconfigured, NoGroup, NotTaken, ServerError, ServerFull, Unreachable
from bridge.scripts import Script

Argument = str | bytes | int | float
_Source = tuple[str, tuple[Argument, ...]]  # a script and its arguments, for a server that has forgotten it
MAX_WAITING = 50_000  # calls sent and not yet answered, on one connection

# Answers that mean: not now, or not here. Resolve the server again and back off.
_PASSING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "MISCONF",
            "UNBLOCKED", "MOVED", "ASK")  # fmt: skip
_nothing = object()
_pack = cast(Callable[[tuple[Argument, ...]], bytes], hiredis.pack_command)


class NoScript(BridgeError):
    """The server has forgotten the script (restart, SCRIPT FLUSH)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens, and what it wants to hear first."""

    path: str | None = None  # unix socket, else host and port
    host: str = "localhost"
    port: int = 6379
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    tls: SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


def error_of(text: str) -> BridgeError:
    """What an error reply of Redis means to us."""
    code = text.partition(" ")[0]
    match code:
        case "FENCED":
            return Fenced(text)
        case "OOM":
            return ServerFull(
                "Redis is full (maxmemory, noeviction): nothing was written; free memory or raise the limit"
            )
        case "NOSCRIPT":
            return NoScript(text)
        case "NOGROUP":
            return NoGroup(text)
        case "NOAUTH" | "WRONGPASS" | "NOPERM":
            return Misconfigured(f"Redis refuses us: {text}")
        case _ if code in _PASSING:
            return NotTaken(text)
        case _:
            return ServerError(text)


class Link(asyncio.Protocol):
    """See the module. ``on_push`` gets what the server sends unasked: ``[b"smessage", channel, data]`` and the like.

    With it, an error that answers no call is a subscription refused: ``on_refused`` says whether
    somebody sees to that, else the connection is cut.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout: float,
        on_push: Callable[[list[Any]], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
        on_refused: Callable[[BridgeError], bool] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.up = False
        self.mode = ""  # standalone, cluster or sentinel
        self._subscribes = False  # greeted, and used for subscriptions
        self._timeout = timeout
        self._on_push, self._on_lost, self._on_refused = on_push, on_lost, on_refused
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(
            protocolError=lambda m: ServerError(str(m)), replyError=error_of, notEnoughData=_nothing
        )
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[asyncio.Future[Any], _Source | None]] = deque()
        self.resent = 0  # scripts that the server had forgotten, so that they ran later than they were first sent
        self._outgoing: list[bytes] = []
        self._heard = 0.0  # loop time of the last sign of life while something waited
        self._watch: asyncio.TimerHandle | None = None
        self._cause = "closed by the server"

    @classmethod
    async def open(
        cls,
        endpoint: Endpoint,
        *,
        timeout: float,
        patience_s: float = 0.0,
        scripts: Sequence[Script] = (),
        **callbacks: Any,
    ) -> Link:
        """Connect, greet and load ``scripts``, which may take ``patience_s`` where that is longer than ``timeout``.

        Raises Unreachable, or Misconfigured where Redis refuses us.
        """
        link = cls(endpoint, timeout=max(timeout, patience_s), **callbacks)
        try:
            async with asyncio.timeout(link._timeout):
                await link._connect()
                await link._greet(scripts)
            link._from_now_on(timeout)
            if not link.up:  # it went right after its last answer
                raise Unreachable(f"{endpoint}: {link._cause}")
            link._subscribes = link._on_push is not None
        except (OSError, TimeoutError, UnicodeError) as error:  # the last one: of a host that is no name
            link.close("never came up")
            raise Unreachable(f"{endpoint}: {str(error) or f'no answer within {link._timeout:g} s'}") from error
        except BaseException:
            link.close("never came up")
            raise
        return link

    async def _connect(self) -> None:
        if self.endpoint.path is not None:
            await self._loop.create_unix_connection(lambda: self, self.endpoint.path)
        else:
            await self._loop.create_connection(
                lambda: self, self.endpoint.host, self.endpoint.port, ssl=self.endpoint.tls
            )

    async def _greet(self, scripts: Sequence[Script]) -> None:
        hello: list[Argument] = ["HELLO", 3]
        if self.endpoint.password is not None:
            hello += ["AUTH", self.endpoint.username or "default", self.endpoint.password]
        told = self.send(*hello)
        greetings = [told, self.send("CLIENT", "SETNAME", "chat-backoffice-bridge")]
        if self.endpoint.database:
            greetings.append(self.send("SELECT", self.endpoint.database))
        greetings += [self.send("SCRIPT", "LOAD", script.source) for script in scripts]
        answers = await asyncio.gather(*greetings, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        self.mode = told.result()[b"mode"].decode()

    def _from_now_on(self, timeout: float) -> None:
        """Nothing is waited for at this moment."""
        self._timeout = timeout
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def send(self, *arguments: Argument) -> asyncio.Future[Any]:
        """Queue a call; it leaves with all others of this turn of the loop.

        The future raises Unreachable if the connection goes first: the outcome is unknown then.
        """
        return self._queue(_pack(arguments), None)

    def send_script(
        self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument]
    ) -> asyncio.Future[Any]:
        """Queue a script by its hash; a server that has forgotten it gets its source."""
        tail = (len(keys), *keys, *arguments)
        return self._queue(_pack(("EVALSHA", script.sha, *tail)), (script.source, tail))

    def write(self, *arguments: Argument) -> None:
        """Queue a call that is answered by pushes only (SSUBSCRIBE and its like). Not up: nothing happens."""
        if self._transport is not None:
            self._outgoing_soon(_pack(arguments))

    def _queue(self, packed: bytes, resend: _Source | None) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._enqueue(future, packed, resend)
        return future

    def _enqueue(self, future: asyncio.Future[Any], packed: bytes, resend: _Source | None) -> None:
        if self._transport is None or len(self._waiting) >= MAX_WAITING:
            cause = self._cause if self._transport is None else f"{MAX_WAITING} calls wait for an answer already"
            future.set_exception(NotTaken(f"{self.endpoint}: {cause}"))
            return
        if not self._waiting:
            self._heard = self._loop.time()
        self._waiting.append((future, resend))
        self._outgoing_soon(packed)

    def _outgoing_soon(self, packed: bytes) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(packed)

    def _flush(self) -> None:
        if self._transport is None:
            return
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._check_silence)
        self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def _check_silence(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        left = self._heard + self._timeout - self._loop.time()
        if left <= 0.001:
            self.close(f"no answer within {self._timeout:g} s")
        else:
            self._watch = self._loop.call_later(left, self._check_silence)

    def close(self, cause: str = "closed") -> None:
        """Cut the connection; whatever waits fails with Unreachable."""
        if self._transport is not None:
            self._cause = cause
            self._transport.abort()
            self.connection_lost(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.up = True

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._reader.feed(data)
        while self.up:
            try:
                reply = self._reader.gets()
            except ServerError as error:
                self.close(f"not Redis protocol: {error}")
                return
            if reply is _nothing:
                return
            if type(reply) is hiredis.PushNotification:
                if self._on_push is not None:
                    self._on_push(reply)
                continue
            self._answer(reply)

    def _answer(self, reply: Any) -> None:
        if self._subscribes and isinstance(reply, BridgeError):
            # The refusal of a subscription, which answers no call; a new connection asks for all of them again.
            if self._on_refused is None or not self._on_refused(reply):
                self.close(f"a subscription was refused: {reply}")
            return
        future, resend = self._waiting.popleft()
        if future.done():
            return
        if isinstance(reply, BridgeError):
            if type(reply) is NoScript and resend is not None:
                source, tail = resend
                self.resent += 1
                self._enqueue(future, _pack(("EVAL", source, *tail)), None)
            else:
                future.set_exception(reply)
        else:
            future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.up:
            return
        self.up = False
        self._transport = None
        if error is not None:
            self._cause = str(error)
        if self._watch is not None:
            self._watch.cancel()
        self._outgoing.clear()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(Unreachable(f"{self.endpoint}: {self._cause}"))
                future.exception()  # a caller that is gone must not make the loop complain
        if self._on_lost is not None:
            self._on_lost(self._cause)
