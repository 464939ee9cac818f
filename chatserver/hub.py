"""Who is connected to this node, by user; closes those that are silent, late or past their token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bridge.chat.state import Member
from chatserver import frames
from chatserver.auth import LEEWAY_S
from chatserver.connection import Connection
from chatserver.frames import Close
from chatserver.limits import BURST_S, Bucket
from chatserver.snapshots import Membership, SessionKey

AUTH_S = 10.0  # from the first frame of ours to a good token of theirs


@dataclass(slots=True, eq=False)
class Client:
    """One session: its socket, whose it is, and the rooms it is in."""

    id: str
    socket: Connection
    opened_at: float  # loop time
    user: str = ""  # empty until its token was good
    name: str = ""
    began: int | None = None  # ms, the server's clock; None until the session is listed
    expires_at: float = 0.0  # seconds since the epoch, the token's
    rooms: dict[str, Membership] = field(default_factory=dict)
    must_check: bool = False  # a sanction came while the session was being listed
    warned_by: str = ""  # the last warning it was given, a command's id
    has_shown_token: bool = False  # one that it was not closed for; what is still missing is none of its doing

    def key(self) -> SessionKey:
        return SessionKey(self.user, self.id, self.name, self.began, tuple(self.rooms))

    def member(self, node: str) -> Member:
        return Member(self.user, self.name, node, self.id)


@dataclass(slots=True)
class Person:
    """A user's sessions here; what they say together is limited, and what one said that was there just now."""

    clients: list[Client] = field(default_factory=list)
    messages: Bucket = field(default_factory=Bucket)


class Hub:
    """All sessions of this node."""

    def __init__(self, heartbeat_s: float, *, clock: Callable[[], float] = time.time) -> None:
        self.heartbeat_s, self.clock = heartbeat_s, clock
        self.clients: set[Client] = set()
        self._people: dict[str, Person] = {}
        self._absent: set[str] = set()  # those of them without a session
        self._swept_at = self._awake_since = 0.0  # loop times

    def add(self, client: Client) -> None:
        self.clients.add(client)

    def identify(self, client: Client, user: str, name: str, expires_at: float) -> None:
        """From now on the client gets what concerns its user."""
        client.user, client.name, client.expires_at = user, name, expires_at
        self._people.setdefault(user, Person()).clients.append(client)
        self._absent.discard(user)

    def forget_user(self, client: Client) -> None:
        person = self._people.get(client.user)
        if person is not None and client in person.clients:
            person.clients.remove(client)
            if not person.clients:  # to come back at once does not fill the bucket
                self._absent.add(client.user)
        client.user = ""

    def remove(self, client: Client) -> None:
        self.forget_user(client)
        self.clients.discard(client)

    def of_user(self, user: str) -> list[Client]:
        person = self._people.get(user)
        return list(person.clients) if person is not None else []

    def messages(self, client: Client) -> Bucket:
        return self._people[client.user].messages

    def listed(self) -> Iterator[Client]:
        """Those whose session is listed among their user's."""
        return (client for client in self.clients if client.user and client.began is not None)

    def push(self, clients: Iterable[Client], frame: bytes) -> int:
        """Send one frame to all of them; how many that are."""
        sent = 0
        for client in clients:
            client.socket.push(frame)
            sent += 1
        return sent

    async def sweep(self) -> None:
        """Close who had their time: to prove who they are, to answer a ping, to renew their token."""
        now, wall = asyncio.get_running_loop().time(), self.clock()
        if now - self._swept_at > self.heartbeat_s:  # this process was held up: it was us who did not listen
            self._awake_since = now
        self._swept_at = now
        self._forget_absent(now)
        for client in tuple(self.clients):
            client.socket.look(now)
            if not client.user or client.began is None:
                if now - client.opened_at > AUTH_S:
                    self._give_up(client)
            elif wall > client.expires_at + LEEWAY_S:
                client.socket.shut(Close.TOKEN_EXPIRED, "the token has expired")
            else:
                self._keep_alive(client, now)

    def _forget_absent(self, now: float) -> None:
        """Forget those whose bucket is full again."""
        for user in tuple(self._absent):
            if now - self._people[user].messages.asked_at > BURST_S:
                self._absent.discard(user)
                del self._people[user]

    def _give_up(self, client: Client) -> None:
        if client.has_shown_token:  # they shall come back
            client.socket.shut(Close.TRY_LATER, "try again later")
        else:
            client.socket.shut(Close.NOT_AUTHENTICATED, f"no token within {AUTH_S:g} s")

    def _keep_alive(self, client: Client, now: float) -> None:
        silent = now - max(client.socket.heard_at, self._awake_since)
        if silent > 2 * self.heartbeat_s:
            client.socket.shut(Close.NO_PONG, "no sign of life")
        elif silent > self.heartbeat_s and client.socket.pinged_at < client.socket.heard_at:
            client.socket.pinged_at = now
            client.socket.push(frames.PING)
