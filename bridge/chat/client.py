"""A chat client that stays: it reconnects, resumes its rooms where it was, and says things once.

``async with ChatClient(urls, token) as client``: ``await client.join("lobby")``, ``await client.say("lobby",
"hello")``, ``async for event in client``. docs/clients.md has the rules.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

from bridge.chat.client_calls import Calls
from bridge.chat.client_events import (
    ChatError,
    Closed,
    Connected,
    Deleted,
    Event,
    History,
    Joined,
    Lagged,
    Message,
    Notice,
    Presence,
    Present,
    Published,
    Reconnecting,
    Resumed,
    RoomChanged,
    RoomEvent,
    RoomLost,
    Said,
    Sanctioned,
    User,
    history_of,
    joined_of,
    present_of,
)
from bridge.chat.client_queue import EventQueue
from bridge.chat.client_retry import NoUrl, Route, Urls, backoff
from bridge.chat.client_rooms import Rooms
from bridge.chat.client_socket import Lost, Socket
from bridge.chat.client_tokens import Tokens, TokenSource
from bridge.envelope import Position

__all__ = [
    "ChatClient", "ChatError", "Closed", "Connected", "Deleted", "Event", "History", "Joined", "Lagged", "Message",
    "Notice", "Position", "Presence", "Present", "Published", "Reconnecting", "Resumed", "RoomChanged", "RoomEvent",
    "RoomLost", "Said", "Sanctioned", "User",
]  # fmt: skip

STEADY_S: Final = 10.0  # a connection that lasted so long was a good one: the next attempt is a first one again
RENEWAL_LEAST_S: Final = 1.0  # between two renewals, whatever the token says
_BAD_TOKEN, _TOKEN_EXPIRED = 4501, 4003

log = logging.getLogger(__name__)


class ChatClient:
    """One user's session, over as many connections as it takes.

    ``urls`` may be a callable, for nodes that come and go; so may ``token``, which is asked again before a token
    ends. A request waits up to ``patience_s`` in all, reconnections included. At most ``max_events`` events wait
    for the reader: what does not fit is got again from the rooms' history once there is space.
    """

    def __init__(
        self,
        urls: Urls,
        token: TokenSource,
        *,
        name: str = "bridge.chat.client",
        version: str = "1",
        rng: random.Random | None = None,
        patience_s: float = 30.0,
        max_events: int = 1000,
    ) -> None:
        self._tokens = Tokens(token)
        self._program = {"name": name, "version": version}
        self._rng = rng or random.Random()
        self._route = Route(urls, self._rng)
        self._patience_s = patience_s
        self._events = EventQueue(max_events)
        self._rooms = Rooms(self._events, self._catch_up, self._leave_again, self._forgotten)
        self._calls = Calls(self._rooms.is_awaited, patience_s)
        self._greeted = False  # it was connected before
        self._last_reason = "no answer"  # why it is not connected
        self._life: asyncio.Task[None] | None = None
        self._tasks: asyncio.TaskGroup  # of the connection

    @property
    def url(self) -> str | None:
        """Where it is connected; None while it is not."""
        return None if self._calls.socket is None else self._calls.socket.url

    @property
    def ready(self) -> Mapping[str, Any]:
        """The node's answer to ``auth``: user, session, node, limits. Empty while there is no connection."""
        return {} if self._calls.socket is None else self._calls.socket.ready

    @property
    def rooms(self) -> dict[str, Position]:
        """Rooms it is in, and up to where events were queued for the reader: what ``join`` takes as ``since``."""
        return self._rooms.positions()

    # life

    async def __aenter__(self) -> Self:
        """Connect. Raises Closed, or ChatError ``unavailable`` if no node lets it in within ``patience_s``."""
        self._life = asyncio.create_task(self._run(), name="chat client")
        try:
            async with asyncio.timeout(self._patience_s):
                await self._calls.connected()
        except TimeoutError:
            await self.close()
            text = f"no connection within {self._patience_s:g} s: {self._last_reason}"
            raise ChatError("unavailable", text, temporary=True) from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the session. Who reads events gets those that are there, and then the end."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait((self._life,))

    async def _run(self) -> None:
        ended: BaseException = Closed(1000, "the client was closed")
        try:
            await self._keep_connected()
        except asyncio.CancelledError:
            self._events.end(StopAsyncIteration())
        except Exception as error:
            ended = error
            self._events.end(error)
        self._calls.end(ended)

    async def _keep_connected(self) -> None:
        """Until cancelled. Raises Closed."""
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            url = ""
            try:
                url = self._route.next()
                socket = await self._open(url)
            except Lost as error:
                lost = error
            except NoUrl as error:
                lost = Lost(str(error))
            else:
                opened_at = loop.time()
                lost = await self._serve(socket)
                if loop.time() - opened_at >= STEADY_S:
                    self._route.went_well()
                    attempt = 0
            after_s = lost.least_s + self._route.pause() if lost.after_s is None else lost.after_s
            attempt += 1
            self._last_reason = lost.reason
            if self._greeted:
                self._events.offer(Reconnecting(attempt, after_s, url, lost.code, lost.reason))
            await asyncio.sleep(after_s)

    async def _open(self, url: str) -> Socket:
        try:
            token = await self._tokens.get()
        except Exception as error:  # whatever the caller's function raises, it may do better the next time
            raise Lost(f"no token: {type(error).__name__}: {error}") from error
        try:
            socket = await Socket.open(url, token, self._program)
        except Closed as closed:
            if closed.code == _BAD_TOKEN and self._tokens.kept:  # it may have ended, by the node's clock
                self._tokens.forget()
                raise Lost(closed.reason, code=closed.code) from closed
            raise
        self._tokens.told(socket.server_time)
        return socket

    async def _serve(self, socket: Socket) -> Lost:
        """Use a connection until it ends. Raises Closed."""
        ending: BaseException
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._begin(socket)
                try:
                    raise await socket.run(self._rooms.hear)
                finally:
                    self._calls.socket = None  # before tasks are ended: a reader may ask for more meanwhile
        except* (Lost, Closed) as group:
            ending = group.exceptions[0]
        finally:
            await socket.close()
        if isinstance(ending, Lost):
            if ending.code == _TOKEN_EXPIRED:
                self._tokens.forget()
            return ending
        raise ending

    def _begin(self, socket: Socket) -> None:
        if self._greeted:
            self._events.offer(Connected(socket.url, socket.ready["node"], socket.ready["session"]))
        self._greeted, self._calls.socket = True, socket
        self._tasks.create_task(socket.watch(), name="signs of life")
        self._tasks.create_task(self._keep_token(socket), name="token")
        self._rooms.connected()
        self._calls.notify()

    async def _keep_token(self, socket: Socket) -> None:
        """Show another token before the one in use ends."""
        failed = 0  # in a row; a token that is due as soon as it is here counts as well
        while (wait_s := self._tokens.renew_in()) is not None:
            await asyncio.sleep(max(RENEWAL_LEAST_S, backoff(failed, self._rng) if failed else wait_s))
            try:
                await socket.ask("auth", {"token": await self._tokens.renew(), "client": self._program})
                failed = 0 if self._tokens.renew_in() else failed + 1
            except (Lost, Closed):
                return
            except Exception as error:  # the caller's function, or a token that the node does not take
                failed += 1
                log.warning("the token was not renewed: %s: %s", type(error).__name__, error)

    # rooms

    async def join(self, room: str, since: Position | None = None) -> Joined:
        """Enter a room, and stay in it through reconnections until ``leave``, a kick or a ban.

        ``since`` is a place kept from before: ``recovered`` then says whether ``messages`` are all that came after
        it. They are not repeated as events. Raises ChatError, Closed.
        """
        entered: list[Joined] = []
        place = {} if since is None else {"since": {"epoch": since.epoch, "offset": since.offset}}
        answer = await self._calls.ask(
            "join", {"room": room, **place}, on_answer=lambda frame: entered.append(self._rooms.enter(frame))
        )
        return entered[0] if entered else joined_of(answer)

    async def leave(self, room: str) -> None:
        """Nothing of the room is queued any more. One that it is not in is left already.

        A join that still waits for a connection then raises ChatError ``not_joined``.
        """
        self._rooms.forget(room)
        await self._calls.leave(room)

    def _leave_again(self, room: str) -> None:
        if self._calls.socket is not None and not self._calls.settles(room):
            self._tasks.create_task(self._leave_unwanted(room), name=f"out of {room}")

    async def _leave_unwanted(self, room: str) -> None:
        if self._calls.settles(room):  # somebody has asked for it since
            return
        try:
            await self._calls.leave(room)
        except (ChatError, Closed) as error:
            log.warning("the node still counts us in room %s: %s", room, error)

    def _forgotten(self) -> None:
        """Calls that wait for a room to be joined again need not."""
        self._calls.notify()

    async def say(self, room: str, text: str, nonce: str | None = None) -> Said:
        """Say something, once, however often the connection is lost meanwhile.

        After ChatError ``timeout`` nobody knows whether it was said: repeat it with the same ``nonce``, which is
        why one who wants to do so gives it. Raises ChatError, Closed.
        """
        frame = await self._calls.ask("say", {"room": room, "text": text, "nonce": nonce or secrets.token_urlsafe(12)})
        return Said(frame["message_id"], frame["offset"], frame["ts"])

    async def history(self, room: str, before: int | None = None, limit: int = 50) -> History:
        """Up to ``limit`` (1–100) messages and notices before an offset."""
        fields = {"room": room, "limit": limit} | ({} if before is None else {"before": before})
        return history_of(await self._calls.ask("history", fields))

    async def presence(self, room: str) -> Present:
        return present_of(await self._calls.ask("presence", {"room": room}))

    async def ping(self) -> float:
        """Seconds that an answer takes now."""
        began = asyncio.get_running_loop().time()
        await self._calls.ask("ping", {})
        return asyncio.get_running_loop().time() - began

    def _catch_up(self, room: str) -> None:
        """Rooms ask for it when they are not level with theirs."""
        if self._calls.socket is not None:
            self._tasks.create_task(self._join_again(self._calls.socket, room), name=f"back into {room}")

    async def _join_again(self, socket: Socket, room: str) -> None:
        attempt = 0
        while (place := self._rooms.place(room)) is not None:
            since = {"epoch": place.epoch, "offset": place.offset}
            try:
                await socket.ask("join", {"room": room, "since": since}, on_answer=self._rooms.resume)
                break
            except (Lost, Closed):
                return
            except ChatError as error:
                if not error.temporary:
                    self._rooms.lose(room, error)
                    break
                await asyncio.sleep(max(backoff(attempt, self._rng), (error.retry_after_ms or 0) / 1000))
                attempt += 1
        self._calls.notify()

    # events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event; raises Closed when the server ended the session for good. For one reader."""
        event = await self._events.get()
        self._rooms.space()
        return event
