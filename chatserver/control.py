"""What operators do to people, as this node's clients feel it: the control channel of every shard, applied.

These channels only close sockets and tell clients. Whether somebody may speak or join is read
from the state each time, so a node that lags here is slow, never wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from bridge.channels import Channel, Channels
from bridge.envelope import Position, Publication
from bridge.errors import BridgeError
from chatserver import frames
from chatserver.follower import Follower, Spawn
from chatserver.frames import Close
from chatserver.hub import Client, Hub
from chatserver.receipts import Applied, Reporter
from chatserver.rooms import Follow, Rooms
from chatserver.snapshots import Membership
from chatserver.state import ChatState

log = structlog.get_logger(__name__)

SIGN_OF_LIFE_S = 10.0  # between two of every session and member; whoever lost their place is noticed then
REPORT_AGAIN_S = 30.0  # receipts so old are surely on every replica
_EMPTY = Position("", 0)


class Control:
    """Follows the control channels, and looks at the state itself where they may have missed something."""

    def __init__(
        self,
        hub: Hub,
        rooms: Rooms,
        state: ChatState,
        channels: Channels,
        *,
        follow: Follow,
        spawn: Spawn,
        reload: Callable[[], None],
        reporter: Reporter,
    ) -> None:
        self._hub, self._rooms, self._state, self._channels = hub, rooms, state, channels
        self._follow, self._spawn, self._reload = follow, spawn, reload
        self._reporter, self._applied = reporter, Applied()
        self._followers: list[Follower] = []
        self._to_check: set[str] = set()  # users, rooms
        self._must_reload = self._must_report = self._closed = False
        self._checked_at = 0.0

    async def start(self, shards: int) -> None:
        """Follow every shard from now on. Raises Unreachable."""
        self._followers = [self._follower(shard) for shard in range(shards)]
        await asyncio.gather(*(self._begin(follower) for follower in self._followers))
        self._reload()  # what was read before that may be old already, and nobody tells it again

    def close(self) -> None:
        self._closed = True
        for follower in self._followers:
            follower.close()

    async def _look(self) -> None:
        """See whether something is due on the channels that has not come."""
        outage: BaseException | None = None
        asked = (self._channels.position(each.channel) for each in self._followers)
        for follower, place in zip(self._followers, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(place, BaseException):
                outage = place
            else:
                follower.look(place)
        if outage is not None:
            raise outage

    def check_soon(self) -> None:
        """Look at the state of all sessions and members at the next step."""
        self._to_check |= {"users", "rooms"}

    def reconnected(self) -> None:
        """Something may have been missed; and a server that took over may lack what was written last.

        Every channel of the node says so in the same turn of the loop: what it takes is done once, by ``step``.
        """
        self.check_soon()
        self._must_report = True

    async def step(self) -> None:
        """Give signs of life of all sessions and members, and part with those that have no place any more.

        Raises what kept it from one of them, once it has come to all others: a primary may be away for long.
        """
        if self._must_reload:
            self._must_reload = False
            self._reload()
        if self._must_report:
            self._must_report = False
            self._report_again()
        now = asyncio.get_running_loop().time()
        if now - self._checked_at >= SIGN_OF_LIFE_S:
            self.check_soon()
            self._checked_at = now
        wanted, self._to_check = self._to_check, set()
        outage = await _failure(self._look())
        for what, check in (("users", self._check_sessions), ("rooms", self._check_members)):
            if what in wanted and (failure := await _failure(check())) is not None:
                self._to_check.add(what)
                outage = failure
        if outage is not None:
            raise outage

    def _report_again(self) -> None:
        for command_id in self._applied.within(REPORT_AGAIN_S):
            self._reporter.report(command_id, self._applied.sessions(command_id))

    def hear(self, publication: Publication) -> None:
        """Apply a publication, a command's only once, and report what the command did here."""
        command_id = publication.data.get("command_id") if isinstance(publication.data, dict) else None
        if not isinstance(command_id, str):
            self.apply(publication)
            return
        event = f"{publication.type} {publication.data.get('kind')}"
        if not self._applied.knows(command_id, event):
            self._applied.note(command_id, event, self.apply(publication))
        self._reporter.report(command_id, self._applied.sessions(command_id))

    def apply(self, publication: Publication) -> int:
        """Do what one publication says; how many sessions it concerned."""
        data: Mapping[str, Any] = publication.data
        match publication.type:
            case "sanction" if data["room"] is None:
                return self._sanction_user(data, publication.at)
            case "sanction":
                return self._sanction_member(data)
            case "replaced":
                gone = [c for c in self._hub.of_user(data["user"]) if c.id in data["sessions"]]
                return _shut(gone, Close.REPLACED, "a newer session took this one's place")
            case "shadow":
                theirs = [c for c in self._hub.of_user(data["user"]) if data["room"] in c.rooms]
                there = self._rooms.get(data["room"])
                at = None if there is None else there.follower.position
                shown = {"type": "message", "epoch": "" if at is None else at.epoch, **data}  # as others look
                return self._hub.push(theirs, frames.encode(shown))
            case "notice.flash":
                return self._flash(data)
            case "config.reload":
                self._reload()
            case "cache.drop":
                self._to_check.add(data["what"])
            case _:
                log.info("an unknown control event was ignored", type=publication.type)
        return 0

    def _sanction_user(self, data: Mapping[str, Any], at: int) -> int:
        clients = self._hub.of_user(data["user"])
        for client in clients:
            client.must_check = client.began is None
        there = [c for c in clients if c.began is not None]
        if data["kind"] == "kick":  # who came after it has nothing to do with it
            there = [c for c in there if c.began is not None and c.began <= at]
        if not data.get("shadow"):
            self._hub.push(there, frames.sanction_push(data))
        if data["kind"] == "warn":
            for client in there:
                client.warned_by = data["command_id"]
        elif data["kind"] == "kick":
            _shut(there, Close.KICKED, data["reason"] or "kicked")
        elif data["kind"] == "ban":
            _shut(there, Close.BANNED, data["reason"] or "banned")
        return len(there)

    def _sanction_member(self, data: Mapping[str, Any]) -> int:
        clients, room_id = self._hub.of_user(data["user"]), data["room"]
        if data["kind"] not in ("kick", "ban"):
            return self._hub.push(clients, frames.sanction_push(data))
        members = [c for c in clients if room_id in c.rooms]
        concerned = members if data["kind"] == "kick" else clients
        self._hub.push(concerned, frames.sanction_push(data))
        for client in clients:  # one that is about to join is looked at again
            membership = self._rooms.turn_out(client, room_id)
            if membership is not None:
                self._spawn(self._forget(client, membership))
        return len(concerned)

    def _flash(self, data: Mapping[str, Any]) -> int:
        if data.get("room") is None:
            return self._hub.push(self._hub.listed(), frames.flash(data))
        there = self._rooms.get(data["room"])
        return 0 if there is None else self._hub.push(there.everybody(), frames.flash(data))

    async def _forget(self, client: Client, membership: Membership) -> None:
        with contextlib.suppress(BridgeError):
            await self._state.leave(membership)
            if client.user:  # it may be gone by now
                await self._state.note_rooms(client.key())

    async def _check_sessions(self) -> None:
        clients = list(self._hub.listed())
        keys = [client.key() for client in clients]
        outage: BridgeError | None = None
        for client, key, listed in zip(clients, keys, await self._state.keep_sessions(keys), strict=True):
            if isinstance(listed, BridgeError):
                outage = listed
            elif client not in self._hub.clients:  # it ended meanwhile, and the sign of life has listed it again
                self._spawn(self._state.end_session(key))
            elif "ban" in listed.user.sanctions:
                client.socket.shut(Close.BANNED, "banned")
            elif listed.user.kicked_at is not None and listed.began < listed.user.kicked_at:
                client.socket.shut(Close.KICKED, "kicked")
            elif listed.replaced:
                client.socket.shut(Close.REPLACED, "a newer session took this one's place")
            elif listed.warning is not None and listed.warning["command_id"] != client.warned_by:
                client.warned_by = listed.warning["command_id"]
                client.socket.push(frames.sanction_push(listed.warning))
        if outage is not None:
            raise outage

    async def _check_members(self) -> None:
        members = [(client, membership) for client in self._hub.listed() for membership in client.rooms.values()]
        answers = await self._state.keep_members([membership for _, membership in members])
        outage: BridgeError | None = None
        for (client, membership), answer in zip(members, answers, strict=True):
            if isinstance(answer, BridgeError):
                outage = answer
            elif membership.room not in client.rooms:  # it left meanwhile
                self._spawn(self._state.leave(membership))
            elif answer and client.rooms.get(membership.room) is membership:
                self._rooms.turn_out(client, membership.room)
                event = {"kind": answer, "room": membership.room, "until": None, "reason": None, "command_id": None}
                client.socket.push(frames.sanction_push(event))
        if outage is not None:
            raise outage

    def _follower(self, shard: int) -> Follower:
        def lost() -> None:
            self.check_soon()
            self._must_reload = True  # whether that was among what was missed, nobody knows
            self._spawn(self._begin_again(follower))

        follower = self._follow(Channel.control(shard), self.hear, lost)
        return follower

    async def _begin(self, follower: Follower) -> None:
        await follower.subscribe()
        follower.begin(await self._channels.position(follower.channel) or _EMPTY)

    async def _begin_again(self, follower: Follower) -> None:
        """What was on the channel cannot be had any more; the state tells what matters of it."""
        while not self._closed:
            try:
                await self._begin(follower)
                break
            except BridgeError:
                await asyncio.sleep(1)


async def _failure(work: Coroutine[Any, Any, None]) -> BridgeError | None:
    """Why it could not be done, if it could not."""
    try:
        await work
    except BridgeError as error:
        return error
    return None


def _shut(clients: list[Client], code: int, reason: str) -> int:
    for client in clients:
        client.socket.shut(code, reason)
    return len(clients)
