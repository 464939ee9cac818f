"""Rooms with members on this node: followed while somebody is here, left without a gap or a repetition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.channels import Channel
from bridge.chat.publications import is_kept
from bridge.chat.state import Member, Sanction, room
from bridge.envelope import Publication
from bridge.errors import BridgeError
from chatserver import frames
from chatserver.follower import Follower
from chatserver.frames import Close, Join
from chatserver.hub import Client
from chatserver.snapshots import Membership, Snapshot
from chatserver.state import ChatState

NEWCOMER_PUBLICATIONS: Final = 50  # of a room's history in the answer to a join
TOGETHER: Final = 32  # publications in one write
LARGE_ROOM: Final = 100  # users; above it, presence pushes have the count only

Follow = Callable[[Channel, Callable[[Publication], None], Callable[[], None]], Follower]


@dataclass(slots=True)
class Waiting:
    """A client between asking to join and being level with the room."""

    was_member: bool  # it joins again
    floor: int | None = None  # offset of its snapshot; None until it has one
    frames: list[tuple[int, bytes]] = field(default_factory=list)  # what came meanwhile
    must_check: bool = False  # it was banned or kicked meanwhile
    lost: bool = False  # meanwhile the room was lost to those who were members


class Room:
    """One room: its members here, and the place up to which they have seen it."""

    def __init__(self, id: str, shards: int, follow: Follow) -> None:
        self.id = id
        self.follower = follow(Channel.of_subject(room(id), shards), self._deliver, self._lost)
        self.members: set[Client] = set()
        self.waiting: dict[Client, Waiting] = {}
        self.people: dict[str, str] = {}  # user → name, as members were told
        self.version = b""  # of the presence that they were told
        self._unsent: list[bytes] = []  # of this turn of the loop

    @property
    def empty(self) -> bool:
        return not self.members and not self.waiting

    def wait(self, client: Client) -> Waiting:
        """Keep what comes for the client from now on until it is settled."""
        self._flush()
        was_member = client in self.members
        self.members.discard(client)
        self.waiting[client] = waiting = Waiting(was_member)
        return waiting

    def settle(self, client: Client, snapshot: Snapshot) -> None:
        """The client has the snapshot now; give it what came after, and let it take part."""
        self._flush()
        if self.follower.position is None:
            present = snapshot.present if isinstance(snapshot.present, list) else []
            self.people = {m.user: m.name for m in present}
            self.follower.begin(snapshot.position)
        waiting, floor = self.waiting[client], snapshot.position.offset
        for offset, frame in waiting.frames:
            if offset > floor:
                client.socket.push(frame)
        waiting.frames.clear()
        at = self.follower.position
        if at is not None and at.offset >= floor:
            self._level(client)
        else:
            waiting.floor = floor

    def put_back(self, client: Client) -> None:
        """The join failed; who was a member before still is one, and has missed nothing unless all have."""
        waiting = self.waiting.pop(client, None)
        if waiting is None or not waiting.was_member:
            return
        if waiting.lost:
            self._begin_anew(client)
            return
        self._flush()
        for _, frame in waiting.frames:
            client.socket.push(frame)
        self.members.add(client)

    def drop(self, client: Client) -> None:
        self._flush()
        self.members.discard(client)
        self.waiting.pop(client, None)

    def everybody(self) -> Iterable[Client]:
        """Members, those who wait to be level included."""
        yield from self.members
        yield from (client for client, waiting in self.waiting.items() if waiting.floor is not None)

    def count(self, snapshot: Snapshot, user: str) -> int:
        """Users in the room; of a large one as of the last second, at first sessions."""
        if isinstance(snapshot.present, list):
            return len({m.user for m in snapshot.present})
        return len(self.people | {user: ""}) if self.people else snapshot.present

    def tell_presence(self, version: bytes, present: list[Member]) -> bytes | None:
        """The push of what changed; None where nothing did."""
        self.version = version
        now = {m.user: m.name for m in present}
        came = [{"user": user, "name": name} for user, name in now.items() if user not in self.people]
        went = [{"user": user, "name": name} for user, name in self.people.items() if user not in now]
        self.people = now
        if not came and not went:
            return None
        return frames.presence_push(self.id, len(now), *(([], []) if len(now) > LARGE_ROOM else (came, went)))

    def _deliver(self, publication: Publication) -> None:
        frame = frames.encode(frames.push_of(self.id, publication))  # once, for all of them
        self._unsent.append(frame)
        if self.waiting or len(self._unsent) >= TOGETHER:
            self._flush()
            self._deliver_to_waiting(publication.offset, frame)
        elif len(self._unsent) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """What came in one turn of the loop goes out in one write to each member; most of the time goes into those.

        A room in which more is said than the node has time for makes turns longer, and writes fewer. Whoever
        changes who is a member calls this first.
        """
        if not self._unsent:
            return
        together, self._unsent = b"".join(self._unsent), []
        for client in self.members:
            client.socket.push(together)

    def _deliver_to_waiting(self, offset: int, frame: bytes) -> None:
        for client, waiting in tuple(self.waiting.items()):
            if waiting.floor is None:
                waiting.frames.append((offset, frame))
                continue
            if offset > waiting.floor:
                client.socket.push(frame)
            if offset >= waiting.floor:
                self._level(client)

    def _level(self, client: Client) -> None:
        del self.waiting[client]
        self.members.add(client)

    def _lost(self) -> None:
        """Members cannot be brought up to date: they connect again and begin with the room as it is."""
        for client in tuple(self.everybody()):
            self._begin_anew(client)
            self.drop(client)
        for waiting in self.waiting.values():  # their snapshot is still to come
            waiting.frames.clear()
            waiting.lost = True

    def _begin_anew(self, client: Client) -> None:
        client.socket.shut(Close.STATE_LOST, f"room {self.id} lost part of its history")


class Rooms:
    """All rooms of this node."""

    def __init__(self, state: ChatState, node: str, shards: int, follow: Follow) -> None:
        self._state, self._node, self._shards, self._follow = state, node, shards, follow
        self._rooms: dict[str, Room] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def get(self, room_id: str) -> Room | None:
        return self._rooms.get(room_id)

    async def join(self, client: Client, frame: Join, sanctions: list[Sanction]) -> None:
        """Subscribe first, then read the state at its offset, then apply what came in between.

        The answer is put on the client's socket. Raises Refused, Unreachable; nothing has changed then.
        """
        there = self._rooms.get(frame.room)
        if there is None:
            there = self._rooms[frame.room] = Room(frame.room, self._shards, self._follow)
        waiting = there.wait(client)
        try:
            await there.follower.subscribe()
            snapshot = await self._snapshot(client, frame, waiting)
        except BaseException:
            there.put_back(client)
            raise
        before = client.rooms.get(frame.room)
        joined = before.joined if before is not None and waiting.was_member else snapshot.now
        client.rooms[frame.room] = Membership(frame.room, client.member(self._node), joined)
        client.socket.put(frames.encode(_joined(frame, snapshot, sanctions, there.count(snapshot, client.user))))
        there.settle(client, snapshot)

    async def _snapshot(self, client: Client, frame: Join, waiting: Waiting) -> Snapshot:
        while True:
            waiting.must_check = False
            member = client.member(self._node)
            snapshot = await self._state.join(frame.room, member, frame.since, NEWCOMER_PUBLICATIONS)
            if not waiting.must_check:
                return snapshot

    def expel(self, client: Client, room_id: str) -> Membership | None:
        """The client is not a member any more, as far as this node is concerned."""
        there = self._rooms.get(room_id)
        if there is not None:
            there.drop(client)
        return client.rooms.pop(room_id, None)

    def turn_out(self, client: Client, room_id: str) -> Membership | None:
        """Somebody kicked or banned the client from the room. Where it is about to join, it is looked at again."""
        there = self._rooms.get(room_id)
        waiting = None if there is None else there.waiting.get(client)
        if waiting is not None and waiting.floor is None:
            waiting.must_check, waiting.was_member = True, False
            return client.rooms.pop(room_id, None)
        return self.expel(client, room_id)

    async def leave(self, client: Client, room_id: str) -> None:
        membership = self.expel(client, room_id)
        if membership is not None:
            await self._state.leave(membership)

    def expel_everywhere(self, client: Client) -> list[Membership]:
        """The client is gone; what it was a member of."""
        memberships = [self.expel(client, room_id) for room_id in tuple(client.rooms)]
        return [m for m in memberships if m is not None]

    def close(self) -> None:
        """Follow none any more."""
        for there in self._rooms.values():
            there.follower.close()

    async def step(self) -> None:
        """Stop following rooms that nobody is in; see what is due in the others, tell members who came and went.

        Raises what kept one of them from being looked at, once all have been.
        """
        for room_id, there in tuple(self._rooms.items()):
            if there.empty:
                del self._rooms[room_id]
                there.follower.close()
        found = await self._state.rooms_now({id: there.version for id, there in self._rooms.items()})
        outage: BridgeError | None = None
        for room_id, now in found.items():
            if isinstance(now, BridgeError):
                outage = now
                continue
            if (here := self._rooms.get(room_id)) is None:
                continue
            here.follower.look(now.place)
            if now.present is not None and (frame := here.tell_presence(now.version, now.present)) is not None:
                for client in here.members:
                    client.socket.push(frame)
        if outage is not None:
            raise outage


def _joined(frame: Join, snapshot: Snapshot, sanctions: list[Sanction], count: int) -> dict[str, Any]:
    holding = [*sanctions, *([snapshot.mute] if snapshot.mute is not None else [])]
    shown = snapshot.publications
    if not snapshot.recovered:  # history, not a stretch of the channel: what there is to read
        shown = [p for p in shown if is_kept(p)]
    return {
        "type": "joined",
        "id": frame.id,
        "room": frame.room,
        "epoch": snapshot.position.epoch,
        "offset": snapshot.position.offset,
        "recovered": snapshot.recovered,
        "messages": [frames.push_of(frame.room, p, snapshot.deleted) for p in shown],
        "count": count,
        "state": snapshot.info.state,
        "slow_mode_s": snapshot.info.slow_mode_s,
        "title": snapshot.info.title,
        "sanctions": [frames.sanction_shown(s) for s in holding if not s.shadow],
    }
