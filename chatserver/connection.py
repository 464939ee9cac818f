"""One client's websocket: prebuilt frames out, a bounded outbox, a bounded inbox. It knows nothing of chat."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidMessage
from websockets.frames import BINARY, CloseCode, Frame
from websockets.protocol import CLOSING, OPEN

from chatserver.frames import Close
from chatserver.limits import Bucket, Limits

OUTBOX_BYTES: Final = 256 * 1024  # what may wait for a client, besides the answer to its own last frame
CLOSE_TIMEOUT_S: Final = 3.0  # for a client to take note of a close; then the socket is cut
LAST_S: Final = 1.0  # for a client to read a close frame whose answer is not looked for
LAST_BYTES: Final = 4096  # of what a client had on the way when we closed; more may be a flood
MAX_REASON_BYTES: Final = 120  # a close frame has room for 123
STALLED_S: Final = 10.0  # for a client to take most of what waits for it
SEND_BUFFER_BYTES: Final = 64 * 1024  # the kernel's share of an outbox: it would grow to megabytes by itself
SLICE_BYTES: Final = 4096  # of what a client sent, between two looks at how much that was
MAX_HANDSHAKE_BYTES: Final = 16 * 1024
MAX_HANDSHAKES: Final = 1000  # begun and not finished; the oldest goes first
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_LARGE: Final = _BAD_REQUEST.replace(b"400 Bad Request", b"431 Request Header Fields Too Large")


class Handshakes:
    """Connections that have not asked for anything yet, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, connection: Connection) -> None:
        self._waiting[connection] = None
        if len(self._waiting) > MAX_HANDSHAKES:
            oldest = next(iter(self._waiting))
            self.discard(oldest)
            oldest.transport.abort()

    def discard(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)

    def cut(self) -> None:
        """End all of them."""
        while self._waiting:
            connection, _ = self._waiting.popitem()
            connection.transport.abort()


class Connection(ServerConnection):
    """A server connection that is written to without tasks or awaiting.

    Frames go straight to the transport (it takes half the time of ``broadcast()``).
    That is sound because nothing here is ever sent in fragments or compressed.
    """

    def __init__(self, *arguments: Any, limits: Limits, handshakes: Handshakes, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits, self._handshakes = limits, handshakes
        self.heard_at = self.loop.time()  # the last sign of life of any kind
        self.pinged_at = 0.0  # loop time of our last ping that was a frame of the protocol
        self.closed_with: int | None = None  # our close code, once we have begun to close
        self._stalled_at: float | None = None  # loop time since when much waits for the client
        self._asked_bytes = 0  # of its handshake
        self._answering = 0  # bytes in the outbox when the last answer was added to it
        self._frames = Bucket()
        self._since_closed = 0  # bytes that came after our close frame
        self._hearing = self._turned_away = False
        self._cut: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether neither side has begun to close."""
        return self.protocol.state is OPEN

    def push(self, frame: bytes) -> None:
        """Send a frame if the client keeps up; close with 4001 if it does not."""
        if self.protocol.state is not OPEN:
            return
        if self.paused and self._overflows():
            return self.shut(Close.SLOW_READER, "the client does not read")
        self.transport.write(frame)
        return None

    def put(self, frame: bytes) -> None:
        """Send part of the answer to a client's frame, however full the outbox is; ``taken`` must follow.

        From here on the answer counts for nothing: others may push before the session comes to ``taken``.
        """
        if self.protocol.state is OPEN:
            self.transport.write(frame)
            self._answering = self.transport.get_write_buffer_size()

    async def taken(self) -> None:
        """Return when the client has taken most of what was put.

        That is what bounds a client that asks and does not read: its next frame waits.
        """
        if self.paused and self.protocol.state is OPEN:
            with contextlib.suppress(OSError):
                await self.drain()
        self._answering = 0

    def look(self, now: float) -> None:
        """Close with 4001 if much has waited for the client for too long, however little is said meanwhile."""
        if self._stalled_at is not None and now - self._stalled_at > STALLED_S:
            self.shut(Close.SLOW_READER, "the client does not read")

    def shut(self, code: int, reason: str) -> None:
        """Begin to close: a close frame, then nothing more; what the client still sends is ignored.

        It has a moment for its own close frame (RFC 6455, 7.1.2). An end of the stream right behind ours would
        have some clients report 1006, whose answer does not get through any more.
        """
        if self.protocol.state is not OPEN:
            return
        self.protocol.send_close(code, reason.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore"))
        self.send_data()
        self.closed_with = code
        self._cut = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def _hears_out(self, part: bytes) -> bool:
        """Whether to look for the client's close frame in what it sends after ours: not for long."""
        self._since_closed += len(part)
        if self._since_closed > LAST_BYTES and not self.protocol.eof_sent:
            self.protocol.fail(CloseCode.ABNORMAL_CLOSURE)  # it sends no second close frame
            self.send_data()
        return self._since_closed <= LAST_BYTES

    def _overflows(self) -> bool:
        return self.transport.get_write_buffer_size() > OUTBOX_BYTES + self._answering

    # asyncio.Protocol and websockets' own callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._handshakes.add(self)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        if self.request is None:
            self._asked_bytes += len(data)
            if self._asked_bytes > MAX_HANDSHAKE_BYTES:
                self.transport.write(_TOO_LARGE)
                return self.transport.close()
        # The layer below takes whatever it is given apart at once, and answers every ping in it:
        # tens of thousands in one read of the socket. So it is given little at a time.
        for start in range(0, len(data), SLICE_BYTES):
            part = data[start : start + SLICE_BYTES]
            if self.closed_with is not None and not self._hears_out(part):
                break
            self._take(part)
        if self.protocol.state is CLOSING and self._cut is None:
            self._cut = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)
        return None

    def _take(self, data: bytes) -> None:
        self._hearing = True
        super().data_received(data)
        self._hearing = False
        if self.request is not None:
            self._handshakes.discard(self)
        # Pings are answered below whether the client reads or not.
        if self.paused and self._overflows():
            self.shut(Close.SLOW_READER, "the client does not read")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled_at = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled_at = None

    def send_data(self) -> None:
        # What is no request, or one with a body, the layer below leaves without an answer.
        if self._hearing and not self._turned_away and isinstance(self.protocol.handshake_exc, InvalidMessage):
            self._turned_away = True
            self.transport.write(_BAD_REQUEST)
        for data in self.protocol.data_to_send():
            if data and self.closed_with is None:  # nothing follows our close frame, no answers to pings either
                self.transport.write(data)
            elif not data and self.protocol.close_sent is not None and self.protocol.close_rcvd is None:
                self.loop.call_later(LAST_S, self._end)  # a fault that the layer below found; see ``shut``
            elif not data:
                self._end()

    def _end(self) -> None:
        """As the layer below ends a stream."""
        if self.transport.is_closing():
            return None
        if not self.transport.can_write_eof():
            return self.transport.close()
        with contextlib.suppress(OSError, RuntimeError):
            self.transport.write_eof()
        return None

    def process_event(self, event: Any) -> None:
        if self.request is not None and self.protocol.state is OPEN:
            assert isinstance(event, Frame)
            rate = self._limits.frames_per_s
            if self._frames.take(self.heard_at, rate=rate, burst=4 * rate):
                return self.shut(Close.TOO_MANY_FRAMES, f"more than {rate:g} frames a second")
            if event.opcode is BINARY:
                return self.shut(Close.NOT_A_FRAME, "frames are text")
        if self.closed_with is None:
            super().process_event(event)
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._handshakes.discard(self)
        if self._cut is not None:
            self._cut.cancel()
        super().connection_lost(error)
