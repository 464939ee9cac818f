"""One client's websocket: prebuilt frames out, a bounded outbox, a bounded inbox. It knows nothing of chat."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from websockets.asyncio.server import ServerConnection
from websockets.frames import BINARY, Frame
from websockets.protocol import CLOSING, OPEN

from chatserver.frames import Close
from chatserver.limits import Bucket, Limits

OUTBOX_BYTES: Final = 256 * 1024  # what may wait for a client, besides the answer to its own last frame
CLOSE_TIMEOUT_S: Final = 3.0  # for a client to take note of a close; then the socket is cut
MAX_REASON_BYTES: Final = 120  # a close frame has room for 123
ANSWER_TIMEOUT_S: Final = 20.0  # for a client to read an answer that did not fit its socket at once


class Connection(ServerConnection):
    """A server connection that is written to without tasks or awaiting.

    Frames go straight to the transport (it takes half the time of ``broadcast()``).
    That is sound because nothing here is ever sent in fragments or compressed.
    """

    def __init__(self, *arguments: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = limits
        self.heard_at = self.loop.time()  # the last sign of life of any kind
        self.pinged_at = 0.0  # loop time of our last ping that was a frame of the protocol
        self.closed_with: int | None = None  # our close code, once we have begun to close
        self._answering = 0  # bytes in the outbox when the last answer was added to it
        self._frames = Bucket()
        self._cut: asyncio.TimerHandle | None = None

    def push(self, frame: bytes) -> None:
        """Send a frame if the client keeps up; close with 4001 if it does not."""
        if self.protocol.state is not OPEN:
            return
        if self.paused and self._overflows():
            return self.shut(Close.SLOW_READER, "the client does not read")
        self.transport.write(frame)
        return None

    def put(self, frame: bytes) -> None:
        """Send part of the answer to a client's frame, however full the outbox is; ``taken`` must follow."""
        if self.protocol.state is OPEN:
            self.transport.write(frame)

    async def taken(self) -> None:
        """Return when the client has taken most of what was put.

        That is what bounds a client that asks and does not read: its next frame waits.
        """
        if not self.paused or self.protocol.state is not OPEN:
            return
        self._answering = self.transport.get_write_buffer_size()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                with contextlib.suppress(OSError):
                    await self.drain()
        except TimeoutError:
            self.shut(Close.SLOW_READER, "the client does not read")
        self._answering = 0

    def shut(self, code: int, reason: str) -> None:
        """Close now: a close frame, then the end of the stream; what the client still sends is ignored."""
        if self.protocol.state is not OPEN:
            return
        self.closed_with = code
        self.protocol.fail(code, reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore"))
        self.send_data()
        self._cut = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def _overflows(self) -> bool:
        return self.transport.get_write_buffer_size() > OUTBOX_BYTES + self._answering

    # asyncio.Protocol and websockets' own callbacks

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.loop.time()
        super().data_received(data)
        # The layer below answers pings by itself, whether the client reads or not.
        if self.paused and self._overflows():
            self.shut(Close.SLOW_READER, "the client does not read")
        if self.protocol.state is CLOSING and self._cut is None:
            self._cut = self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

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
        if self._cut is not None:
            self._cut.cancel()
        super().connection_lost(error)
