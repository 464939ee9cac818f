"""What a chat client asks: each call until it has its answer, over as many connections as that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bridge.chat.client_events import ChatError
from bridge.chat.client_socket import Frame, Lost, Socket

REPEAT_MOST_S: Final = 300.0  # after a call was sent first: nodes know a nonce for ten minutes
RETRY_S: Final = 1.0  # where the node does not say when to try again
# What nodes answer to a say before they look whether they know its nonce: for a while, or for good.
_NOT_NOW: Final = frozenset(("rate_limited", "unavailable", "internal"))
_NOT_LOOKED_AT: Final = frozenset(("not_joined", "forbidden", "too_large"))


@dataclass(slots=True, eq=False)
class Call:
    """One call. Its times are by the wall clock, which goes on while the machine sleeps."""

    type: str
    room: str | None
    asked_at: float
    sent_at: float | None = None  # the first time
    withdrawn: bool = False  # a join of a room that was left since


class Calls:
    """The connection in use, and who waits for one or for an answer. ``is_awaited`` knows rooms to be joined again."""

    def __init__(
        self, is_awaited: Callable[[str], bool], patience_s: float, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.socket: Socket | None = None
        self.clock = clock
        self._is_awaited, self._patience_s = is_awaited, patience_s
        self._calls: set[Call] = set()
        self._news = asyncio.Event()  # something changed for those who wait; a new one each time
        self._ended: BaseException | None = None

    def notify(self) -> None:
        """Who waits looks again."""
        self._news.set()
        self._news = asyncio.Event()

    def end(self, error: BaseException) -> None:
        self._ended = error
        self.notify()

    async def connected(self) -> None:
        """Until there is a connection. Raises what ended the client."""
        await self._usable(None)

    async def ask(
        self, type: str, fields: Mapping[str, Any], on_answer: Callable[[Frame], object] | None = None
    ) -> Frame:
        """Ask until there is an answer: every call may be repeated. ``on_answer`` hears of none that is withdrawn."""
        call = Call(type, fields.get("room"), self.clock())
        told = None if on_answer is None else lambda frame: None if call.withdrawn else on_answer(frame)
        self._calls.add(call)
        try:
            async with asyncio.timeout(self._patience_s):
                while True:
                    socket = await self._usable(call)
                    repeated = self._send(call)
                    try:
                        return await socket.ask(type, fields, on_answer=told, patient=True)
                    except ChatError as error:
                        if type != "say" or not repeated:
                            raise
                        await asyncio.sleep(_again_in(error))
                    except Lost:
                        if self.socket is socket:
                            self.socket = None
        except TimeoutError:
            text = f"no answer to {type} within {self._patience_s:g} s"
            raise ChatError("timeout", text, temporary=True) from None
        finally:
            self._calls.discard(call)

    async def leave(self, room: str) -> None:
        """Withdraw joins that wait, and leave on this connection; the next one does not join the room."""
        for call in self._calls:
            if call.type == "join" and call.room == room:
                call.withdrawn = True
        self.notify()
        if self.socket is None:
            return
        call = Call("leave", room, self.clock())
        self._calls.add(call)
        try:
            await self.socket.ask("leave", {"room": room})
        except Lost:
            pass
        except ChatError as error:
            if error.code != "not_joined":
                raise
        finally:
            self._calls.discard(call)

    def settles(self, room: str) -> bool:
        """Whether a join or leave that waits will settle if the client is in the room."""
        return any(call.room == room and call.type in ("join", "leave") for call in self._calls)

    def _send(self, call: Call) -> bool:
        """Whether it was sent before. Raises TimeoutError if it is too late: the machine slept, and timers with it."""
        now = self.clock()
        if now - call.asked_at > self._patience_s or (call.sent_at is not None and now - call.sent_at > REPEAT_MOST_S):
            raise TimeoutError
        repeated = call.sent_at is not None
        call.sent_at = call.sent_at if repeated else now
        return repeated

    async def _usable(self, call: Call | None) -> Socket:
        """A connection that is in the call's room, if the client means to be there."""
        while self._ended is None:
            if call is not None and call.withdrawn:
                raise ChatError("not_joined", "the room was left before it was joined", temporary=False)
            if self.socket is not None and not self._waits_for_room(call):
                return self.socket
            await self._news.wait()
        raise self._ended

    def _waits_for_room(self, call: Call | None) -> bool:
        if call is None or call.room is None or call.type == "join":
            return False
        return self._is_awaited(call.room)


def _again_in(error: ChatError) -> float:
    """Seconds until a say that may have been said before is repeated; raises what is known of it, if anything is."""
    if error.code in _NOT_NOW:
        return RETRY_S if error.retry_after_ms is None else error.retry_after_ms / 1000
    if error.code in _NOT_LOOKED_AT:
        raise ChatError("timeout", f"it may have been said before this: {error}", temporary=True) from error
    raise error
