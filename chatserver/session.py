"""One client's session: its frames in, answers out, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from websockets.exceptions import ConnectionClosed

from bridge.channels import Channel
from bridge.chat.history import read_deleted, read_log
from bridge.chat.state import ChatStore, read_members, user
from bridge.errors import BridgeError, ServerFull, Unreachable
from bridge.shards import shard_of
from chatserver import frames
from chatserver.auth import BadToken, KeysAway, Tokens
from chatserver.frames import (
    Auth,
    Close,
    History,
    Join,
    Leave,
    NotAFrame,
    Ping,
    Presence,
    Refused,
    Say,
    decode_frame,
    decode_object,
    id_of,
)
from chatserver.health import Metrics
from chatserver.hub import Client, Hub
from chatserver.limits import BURST_S, Limits
from chatserver.rooms import LARGE_ROOM, Rooms
from chatserver.snapshots import Said, UserNow
from chatserver.state import ChatState

log = structlog.get_logger(__name__)

MAX_ROOMS: Final = 50  # that one session is in
MAX_LISTED_USERS: Final = 1000  # in the answer to presence
END_S: Final = 2.0  # for telling Redis that a session is gone
RETRY_MS: Final = 1000  # what a client is told when Redis is away


@dataclass(frozen=True, slots=True)
class Services:
    """What every session of a node shares."""

    node: str
    store: ChatStore
    state: ChatState
    rooms: Rooms
    hub: Hub
    tokens: Tokens
    limits: Limits
    metrics: Metrics


class Session:
    """Runs for as long as the socket is open."""

    def __init__(self, client: Client, services: Services) -> None:
        self._client, self._socket, self._with = client, client.socket, services

    async def run(self) -> None:
        services, client = self._with, self._client
        services.hub.add(client)
        heartbeat_ms = int(services.hub.heartbeat_s * 1000)
        self._socket.push(frames.hello(services.node, heartbeat_ms, int(time.time() * 1000)))
        try:
            while True:
                await self._hear(await self._socket.recv(decode=False))
        except ConnectionClosed:
            pass
        finally:
            await self._end()

    async def _end(self) -> None:
        """What Redis does not hear now, it notices when the signs of life end."""
        services, client = self._with, self._client
        services.metrics.closed(self._socket)
        key = client.key()
        services.hub.remove(client)
        memberships = services.rooms.expel_everywhere(client)
        with contextlib.suppress(BridgeError, TimeoutError):
            async with asyncio.timeout(END_S):
                await asyncio.gather(*(services.state.leave(m) for m in memberships))
                if key.user and key.began is not None:
                    await services.state.end_session(key)

    async def _hear(self, message: bytes) -> None:
        """Handle one message, whatever it is."""
        if self._socket.closed_with is not None:
            return
        try:
            value = decode_object(message)
        except NotAFrame as error:
            self._socket.shut(Close.NOT_A_FRAME, str(error))
            return
        if not self._client.user and value.get("type") != "auth":
            self._socket.shut(Close.NOT_AUTHENTICATED, "the first frame must be auth")
            return
        try:
            await self._handle(value)
        except Refused as refused:
            self._refuse(value, refused)
        except (Unreachable, ServerFull) as error:
            log.warning("unavailable", error=str(error), type=value.get("type"))
            self._refuse(value, Refused("unavailable", "try again", retry_after_ms=RETRY_MS))
        except Exception:
            log.exception("a frame could not be handled", type=str(value.get("type"))[:32])
            self._refuse(value, Refused("internal", "something went wrong here", retry_after_ms=RETRY_MS))
        await self._socket.taken()

    def _refuse(self, value: Mapping[str, Any], refused: Refused) -> None:
        if refused.id is None:
            refused.id = id_of(value)
        self._with.metrics.refused(refused.code)
        self._socket.put(frames.error(refused))

    def _answer(self, answer: Mapping[str, Any]) -> None:
        self._socket.put(frames.encode(answer))

    async def _handle(self, value: Mapping[str, Any]) -> None:
        frame = decode_frame(value)
        match frame:
            case Say():
                await self._say(frame)
            case Join():
                await self._join(frame)
            case Leave():
                await self._leave(frame)
            case History():
                await self._history(frame)
            case Presence():
                await self._presence(frame)
            case Auth():
                await self._auth(frame)
            case Ping():
                self._answer({"type": "pong", "id": frame.id})
        # Of a pong, that it came is all there is to it.

    async def _auth(self, frame: Auth) -> None:
        client, services = self._client, self._with
        client.has_shown_token = True
        try:
            identity = await services.tokens.check(frame.token)
        except BadToken as error:
            if client.user:
                raise Refused("unauthorized", str(error)) from None
            return self._socket.shut(Close.BAD_TOKEN, str(error))
        except KeysAway as error:
            retry_ms = int(error.retry_after_s * 1000) + RETRY_MS
            raise Refused("unavailable", "the token cannot be checked now", retry_after_ms=retry_ms) from None
        if not self._socket.is_open:  # that may have taken a while
            return None
        if client.user:
            if identity.user != client.user:
                raise Refused("forbidden", "this session is another user's; open a new connection")
            client.expires_at = identity.expires_at
        else:
            services.hub.identify(client, identity.user, identity.name, identity.expires_at)
            try:
                await self._list()
            except BaseException:
                services.hub.forget_user(client)
                raise
            if self._socket.closed_with is not None:
                return None
        self._answer(self._ready(frame.id))
        return None

    async def _list(self) -> None:
        """Put the session on its user's list, and see whether anything speaks against it."""
        client, state = self._client, self._with.state
        (listed,) = await state.keep_sessions([client.key()])
        if isinstance(listed, BridgeError):
            raise listed
        client.began, user_now = listed.began, listed.user
        while client.must_check:
            client.must_check = False
            user_now = await state.read_user(client.user)
        self._obey(user_now)

    def _obey(self, user_now: UserNow) -> bool:
        """Close the session if its user was banned, or kicked after it began; whether it stays."""
        if "ban" in user_now.sanctions:
            self._socket.shut(Close.BANNED, "banned")
        return self._obey_kick(user_now)

    def _obey_kick(self, user_now: UserNow) -> bool:
        client = self._client
        if user_now.kicked_at is not None and client.began is not None and client.began < user_now.kicked_at:
            self._socket.shut(Close.KICKED, "kicked")
        return self._socket.closed_with is None

    def _ready(self, id: int) -> dict[str, Any]:
        client, limits = self._client, self._with.limits
        return {
            "type": "ready",
            "id": id,
            "user": {"user": client.user, "name": client.name},
            "session": client.id,
            "node": self._with.node,
            "limits": {
                "frame_bytes": frames.MAX_FRAME_BYTES,
                "text_chars": limits.text_chars,
                "rooms": MAX_ROOMS,
                "messages_per_s": limits.messages_per_s,
            },
        }

    async def _join(self, frame: Join) -> None:
        client, services = self._client, self._with
        if frame.room not in client.rooms and len(client.rooms) >= MAX_ROOMS:
            raise Refused("forbidden", f"a session may be in {MAX_ROOMS} rooms; leave one first")
        user_now = await services.state.read_user(client.user)
        if not self._obey(user_now):
            return
        await services.rooms.join(client, frame, list(user_now.sanctions.values()))
        with contextlib.suppress(BridgeError):  # for operators only; the next sign of life repeats it
            await services.state.note_rooms(client.key())

    async def _leave(self, frame: Leave) -> None:
        self._must_be_in(frame.room)
        await self._with.rooms.leave(self._client, frame.room)
        self._answer({"type": "ok", "id": frame.id})
        with contextlib.suppress(BridgeError):
            await self._with.state.note_rooms(self._client.key())

    async def _say(self, frame: Say) -> None:
        self._must_be_in(frame.room)
        self._check_text(frame.text)
        said = await self._say_now(frame)
        if said is None:
            return
        self._answer({
            "type": "ok", "id": frame.id, "message_id": said.message_id, "offset": said.offset, "ts": said.ts,
        })  # fmt: skip

    def _check_text(self, text: str) -> None:
        client, limits, hub = self._client, self._with.limits, self._with.hub
        if len(text) > limits.text_chars:
            raise Refused("too_large", f"a message may have {limits.text_chars} characters, this has {len(text)}")
        rate = limits.messages_per_s
        wait = hub.messages(client).take(self._socket.heard_at, rate=rate, burst=BURST_S * rate)
        if wait:
            raise Refused("rate_limited", f"at most {rate:g} messages a second", retry_after_ms=int(wait * 1000) + 1)
        if limits.words.found_in(text):
            raise Refused("forbidden", "the message has a word that is not said here")

    async def _say_now(self, frame: Say) -> Said | None:
        """What holds against the user is read for every message: no node trusts what it has heard. None: closed."""
        client, state = self._client, self._with.state
        who = client.member(self._with.node)
        for attempt in (1, 2):
            user_now = await state.read_user(client.user)
            if not self._obey_kick(user_now):
                return None
            try:
                said = await state.say(who, frame.room, frame.text, frame.nonce, user_now)
            except Refused as refused:
                if refused.code == "unavailable" and attempt == 1:  # it took too long between the two scripts
                    continue
                self._with.metrics.refused(refused.code)
                refused.id = frame.id
                self._socket.put(frames.error(refused))
                self._obey(user_now)
                return None
            if said.shadow:
                await self._show_speaker(frame, said)
            return said
        return None

    async def _show_speaker(self, frame: Say, said: Said) -> None:
        """The user is not to notice that nobody else sees the message: their sessions do, on every node."""
        client, store = self._client, self._with.store
        shown = {
            "room": frame.room, "offset": said.offset, "message_id": said.message_id,
            "user": client.user, "name": client.name, "text": frame.text, "ts": said.ts,
        }  # fmt: skip
        await store.channels.publish(Channel.control(shard_of(user(client.user), store.shards)), "shadow", shown)

    async def _history(self, frame: History) -> None:
        self._must_be_in(frame.room)
        store = self._with.store
        found = await read_log(store, frame.room, before=frame.before, limit=frame.limit + 1)
        deleted = await read_deleted(store, frame.room)
        pushes = [frames.push_of(frame.room, p, deleted) for p in found[-frame.limit :]]
        more = len(found) > frame.limit
        self._answer({"type": "history", "id": frame.id, "room": frame.room, "messages": pushes, "more": more})

    async def _presence(self, frame: Presence) -> None:
        self._must_be_in(frame.room)
        there = self._with.rooms.get(frame.room)
        if there is not None and len(there.people) > LARGE_ROOM:  # as of the last second: to read it again costs much
            people = there.people
        else:
            people = {m.user: m.name for m in await read_members(self._with.store, frame.room)}
        listed = [{"user": user, "name": name} for user, name in list(people.items())[:MAX_LISTED_USERS]]
        self._answer({"type": "presence", "id": frame.id, "room": frame.room, "count": len(people), "users": listed})

    def _must_be_in(self, room_id: str) -> None:
        if room_id not in self._client.rooms:
            raise Refused("not_joined", "join the room first")
