"""One connection of a chat client: hello and auth, requests and their answers, signs of life. It knows no rooms."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from bridge.chat.client_events import ChatError, Closed, error_of
from bridge.errors import Misconfigured

PROTOCOL: Final = "bridge.v1"
OPEN_S: Final = 10.0  # for a connection, hello and the answer to auth
CLOSE_S: Final = 2.0
ANSWER_S: Final = 10.0  # to one request on one connection
SILENT_HEARTBEATS: Final = 1.5
MAX_FRAME_BYTES: Final = 16 * 1024  # of ours, until ``ready`` says
MAX_ANSWER_BYTES: Final = 32 << 20  # of theirs: a whole history, recovered
AFTER_MOST_S: Final = 300.0  # that a ``reconnect`` may ask for
_PONG: Final = b'{"type":"pong"}'
_MISREAD: Final = (ValueError, KeyError, TypeError, AttributeError)  # what a frame that is made otherwise raises

Frame = Mapping[str, Any]
log = logging.getLogger(__name__)


class Lost(Exception):
    """The connection is gone or could not be made; another one may be tried."""

    def __init__(
        self, reason: str, *, code: int | None = None, after_s: float | None = None, least_s: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.reason, self.code = reason, code
        self.after_s = after_s  # what the server gave this client, as it gives each another; None = nothing
        self.least_s = least_s  # what it told all alike: to wait longer than that, each as it falls out


class Socket:
    """A connection that is authenticated. ``run`` reads it until it ends."""

    def __init__(self, connection: ClientConnection, url: str) -> None:
        self.url = url
        self.hello: Frame = {}
        self.ready: Frame = {}
        self.heartbeat_s = self.server_time = 0.0  # as hello has them, in seconds
        self.frame_bytes = MAX_FRAME_BYTES
        self._connection, self._loop = connection, asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._pending: dict[int, tuple[asyncio.Future[Frame], Callable[[Frame], object] | None]] = {}
        self._heard_at = self._loop.time()
        self._after_s: float | None = None
        self._gone: Lost | Closed | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        token: str,
        client: Mapping[str, str],
        passed: Callable[[str], None] = lambda stage: None,
    ) -> Self:
        """Connect and authenticate; ``passed`` is told ``connect``, ``hello``, ``auth`` as they succeed.

        Raises Lost, Closed, Misconfigured, ChatError for a token that does not fit a frame.
        """
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(OPEN_S):
                connection = await connect(
                    url, subprotocols=[Subprotocol(PROTOCOL)], compression=None, open_timeout=None,
                    ping_interval=None, close_timeout=CLOSE_S, max_size=MAX_ANSWER_BYTES,
                )  # fmt: skip
                passed("connect")
                socket = cls(connection, url)
                await socket._introduce(token, client, passed)
                return socket
        except InvalidURI as error:
            raise Misconfigured(f"{url!r} is no address of a chat node; it looks like ws://HOST:PORT/ws") from error
        except (OSError, InvalidHandshake, TimeoutError, Lost) as error:
            await _give_up(connection)
            if isinstance(error, Lost):
                raise
            raise Lost(str(error) or f"no answer within {OPEN_S:g} s") from error
        except BaseException:
            await _give_up(connection)
            raise

    async def _introduce(self, token: str, client: Mapping[str, str], passed: Callable[[str], None]) -> None:
        try:
            self._greet(orjson.loads(await self._connection.recv(decode=False)))
            passed("hello")
            id = next(self._ids)
            await self._send({"type": "auth", "id": id, "token": token, "client": dict(client)})
            while (answer := orjson.loads(await self._connection.recv(decode=False))).get("id") != id:
                self._note(answer)
            self._enter(answer)
        except ConnectionClosed as closed:
            raise self._ending(closed) from None
        except _MISREAD as error:
            raise _misread(error) from None
        passed("auth")
        self._heard_at = self._loop.time()

    def _greet(self, hello: Frame) -> None:
        if hello.get("type") != "hello" or hello.get("protocol") != PROTOCOL:
            raise Lost(f"it does not speak {PROTOCOL}")
        self.hello, self.heartbeat_s, self.server_time = (
            hello,
            hello["heartbeat_ms"] / 1000,
            hello["server_time"] / 1000,
        )
        if self.heartbeat_s <= 0:
            raise ValueError(f"heartbeat_ms={hello['heartbeat_ms']}")

    def _enter(self, answer: Frame) -> None:
        if answer["type"] == "error":
            raise Lost(f"{answer['code']}: {answer['message']}", least_s=(answer.get("retry_after_ms") or 0) / 1000)
        if not {"node", "session"} <= answer.keys():
            raise KeyError("node, session")
        self.ready, self.frame_bytes = answer, int(answer["limits"]["frame_bytes"])

    async def run(self, on_push: Callable[[Frame], None]) -> Lost | Closed:
        """Read until the connection ends; how it did. ``on_push`` must not block."""
        try:
            while True:
                message = await self._connection.recv(decode=False)
                self._heard_at = self._loop.time()
                await self._hear(orjson.loads(message), on_push)
        except ConnectionClosed as closed:
            self._gone = self._gone or self._ending(closed)
        except _MISREAD as error:
            self._gone = _misread(error)
        finally:
            gone = self._gone or Lost("this client was closed")
            for future, _ in self._pending.values():
                if not future.done():
                    future.set_exception(gone)
                    future.exception()  # whoever asked may have gone away meanwhile
        return gone

    async def _hear(self, frame: dict[str, Any], on_push: Callable[[Frame], None]) -> None:
        id = frame.get("id")
        if id is None:
            if frame.get("offset") is not None:  # of a room's channel, where plugins name types as they like
                on_push(frame)
            elif frame.get("type") == "ping":
                await self._connection.send(_PONG, text=True)
            elif not self._note(frame):
                on_push(frame)
            return
        future, on_answer = self._pending.get(id, (None, None))
        if future is None or future.done():
            return
        if frame["type"] == "error":
            future.set_exception(error_of(frame))
            return
        try:
            if on_answer is not None:  # at once, so that pushes behind the answer find what it changed
                on_answer(frame)
        except (KeyError, TypeError) as error:
            text = f"the answer is not understood: {type(error).__name__}: {error}"
            future.set_exception(ChatError("internal", text, temporary=False))
        else:
            future.set_result(frame)

    def _note(self, frame: Frame) -> bool:
        """Whether it was about the connection alone."""
        if frame.get("type") != "reconnect":
            return False
        self._after_s = min(max(0, frame["after_ms"]) / 1000, AFTER_MOST_S)
        return True

    async def ask(
        self,
        type: str,
        fields: Mapping[str, Any],
        timeout: float | None = None,
        on_answer: Callable[[Frame], object] | None = None,
        patient: bool = False,
    ) -> Frame:
        """Send a frame and wait for its answer. Raises ChatError; Lost or Closed if the connection ends before.

        No answer within ``timeout`` seconds (None = 10), and no sign of life either, ends the connection. A node that
        shows one is waited for by who is ``patient``, and has its own limit.
        """
        timeout = ANSWER_S if timeout is None else timeout
        if self._gone is not None:
            raise self._gone
        id, asked_at = next(self._ids), self._loop.time()
        future: asyncio.Future[Frame] = self._loop.create_future()
        self._pending[id] = future, on_answer
        why = f"no answer to {type} within {timeout:g} s"
        look = self._loop.call_later(timeout, self._abort_if_silent, asked_at, why) if patient else None
        try:
            async with asyncio.timeout(None if patient else timeout):
                try:
                    await self._send({"type": type, "id": id, **fields})
                except ConnectionClosed as closed:
                    raise self._ending(closed) from None
                return await future
        except TimeoutError:
            if self._abort_if_silent(asked_at, why):
                raise Lost(why) from None
            raise ChatError("timeout", why, temporary=True) from None
        finally:
            if look is not None:
                look.cancel()
            self._pending.pop(id, None)

    async def watch(self) -> None:
        """Ask a node that was silent for longer than a heartbeat, and end the connection if it says nothing.

        Nodes ping silent clients every heartbeat, so a silent node is one that cannot. Asking it first keeps a process
        that was stopped for long from blaming the node.
        """
        silence_s, answer_s = SILENT_HEARTBEATS * self.heartbeat_s, min(self.heartbeat_s, ANSWER_S)
        while True:
            silent = self._loop.time() - self._heard_at
            if silent < silence_s:
                await asyncio.sleep(silence_s - silent)
                continue
            try:
                await self.ask("ping", {}, answer_s)
            except ChatError:
                pass
            except (Lost, Closed):
                return

    def _abort_if_silent(self, since: float, why: str) -> bool:
        silent = self._heard_at < since
        if silent:
            self.abort(why)
        return silent

    def abort(self, why: str) -> None:
        """Give the connection up without a word to the other side, which may not be there."""
        self._gone = self._gone or Lost(why)
        self._connection.transport.abort()

    async def close(self) -> None:
        await self._connection.close()

    async def _send(self, frame: Mapping[str, Any]) -> None:
        encoded = orjson.dumps(frame)
        if len(encoded) > self.frame_bytes:
            text = f"the frame has {len(encoded)} bytes, at most {self.frame_bytes} are taken"
            raise ChatError("too_large", text, temporary=False)
        await self._connection.send(encoded, text=True)

    def _ending(self, closed: ConnectionClosed) -> Lost | Closed:
        if self._gone is not None:
            return self._gone
        if closed.rcvd is None:
            return Lost("the connection broke", after_s=self._after_s)
        code, reason = closed.rcvd.code, closed.rcvd.reason
        if 4500 <= code <= 4999:
            return Closed(code, reason)
        return Lost(reason or "closed", code=code, after_s=self._after_s)


async def _give_up(connection: ClientConnection | None) -> None:
    if connection is not None:
        connection.transport.abort()
        await connection.wait_closed()


def _misread(error: Exception) -> Lost:
    """A node whose frames cannot be read is left like one that is away, for it may be another one the next time."""
    if isinstance(error, orjson.JSONDecodeError):
        return Lost("it does not speak JSON")
    log.warning("a frame is not understood", exc_info=error)
    return Lost(f"a frame is not understood: {type(error).__name__}: {error}")
