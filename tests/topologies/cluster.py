"""A Redis Cluster."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self

from redis.crc import key_slot
from redis.exceptions import ConnectionError

from tests.servers import Server, _free_port
from tests.topologies.base import ASK_S, REPLICATION, Topology, ask, facts_of, has_role, role
from tests.waiting import until

SLOTS = 16384
GIVEN_UP_S = 6.0  # servers that are not done with a fail-over after five seconds, on a busy machine, forget of it


class ManyServers(Topology):
    """Three primaries with a replica each, or as many as asked for: a Redis Cluster."""

    kind = "cluster"
    detection = "node_timeout_ms"

    def __init__(
        self, engine: str, *, primaries: int = 3, replicas: int = 1, node_timeout_ms: int = 1000, **config: str
    ) -> None:
        super().__init__(engine)
        self._replicas, self.detection_ms = replicas, node_timeout_ms
        self._followed: dict[str, str] = {}  # whom each server followed when that was last seen, by id
        options = {name.replace("_", "-"): value for name, value in config.items()}
        options["cluster-node-timeout"] = str(node_timeout_ms)
        self.members = [Member(engine, options) for _ in range(primaries * (1 + replicas))]
        self.servers += self.members
        for member in self.members:
            (member.directory / "nodes.conf").write_text(self._nodes_conf(member, primaries))

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3])

    def _nodes_conf(self, myself: Member, primaries: int) -> str:
        lines = []
        for index, member in enumerate(self.members):
            mark = "myself," if member is myself else ""
            leader = index % primaries
            first, last = SLOTS * leader // primaries, SLOTS * (leader + 1) // primaries - 1
            part = (
                f"{mark}master - 0 0 {leader + 1} connected {first}-{last}"
                if index < primaries
                else f"{mark}slave {self.members[leader].id} 0 0 {leader + 1} connected"
            )
            lines.append(f"{member.id} 127.0.0.1:{member.port}@{member.bus} {part}\n")
        return "".join([*lines, f"vars currentEpoch {primaries} lastVoteEpoch 0\n"])

    async def faults(self) -> list[str]:
        views = await asyncio.gather(*map(self._view, self.servers), return_exceptions=True)
        found = []
        for server, view in zip(self.servers, views, strict=True):
            if isinstance(view, BaseException):
                found.append(f"{server.port}: {view}")
            else:
                found += [f"{server.port}: {fault}" for fault in self._wrong(view)]
        if not found and len({tuple(sorted(seat.told for seat in view.seats)) for view in views}) > 1:  # type: ignore[union-attr]
            found.append("they disagree")
        return found

    def _wrong(self, view: View) -> list[str]:
        faults, count = [], len(self.servers)
        if view.state != "ok":
            faults.append(f"cluster_state {view.state}")
        if view.link != "up":
            faults.append(f"link to its primary {view.link}")
        if len(view.seats) != count or not all(seat.well for seat in view.seats):
            faults.append(f"{sum(seat.well for seat in view.seats)} of {count} well")
        primaries = {seat.id for seat in view.seats if seat.of == "-"}
        bare = primaries - {seat.of for seat in view.seats}
        if bare and self._replicas:
            faults.append(f"{len(bare)} primaries without a replica")
        return faults

    async def _view(self, server: Server) -> View:
        calls = (("CLUSTER", "NODES"), ("CLUSTER", "INFO"), ("INFO", "replication"))
        nodes, info, own = await asyncio.gather(*(ask(server, *call, within_s=ASK_S) for call in calls))
        replication = facts_of(own)
        return View(
            facts_of(info)["cluster_state"],
            replication.get("master_link_status", "up"),
            [Seat.parse(line) for line in nodes.decode().splitlines()],
        )

    async def seats(self) -> list[Seat]:
        """Who is who, as a server tells that sees the cluster well; as the first that answers, where none does."""
        answered: list[View] = []

        async def somebody_answers() -> bool:
            views = await asyncio.gather(*map(self._view, self.servers), return_exceptions=True)
            answered[:] = [view for view in views if isinstance(view, View)]
            return bool(answered)

        await until(somebody_answers)
        seats = next((view for view in answered if view.state == "ok"), answered[0]).seats
        self._followed.update((seat.id, seat.of) for seat in seats if seat.of != "-")
        return seats

    def by_id(self, id: str) -> Member:
        return next(member for member in self.members if member.id == id)

    async def detect_after(self, ms: int) -> None:
        await self.configure(cluster_node_timeout=str(ms))

    async def owner(self, key: str) -> Server:
        return await self.slot_owner(key_slot(key.encode()))

    async def slot_owner(self, slot: int) -> Member:
        for seat in await self.seats():
            if any(first <= slot <= last for first, last in seat.slots):
                return self.by_id(seat.id)
        raise AssertionError(f"nobody has slot {slot}")

    async def replicas(self, primary: Server) -> list[Member]:
        return [self.by_id(seat.id) for seat in await self.seats() if seat.of == id_of(primary)]

    async def fail_over(self, primary: Server, how: str = "planned") -> Server:
        replica = (await self.replicas(primary))[0]
        for last in (False, False, True):
            await ask(replica, "CLUSTER", "FAILOVER", *([] if how == "planned" else [how]))
            try:
                await until(has_role(replica, "master"), GIVEN_UP_S, what="the replica is the primary")
                break
            except AssertionError:
                if last:
                    raise
        return replica

    async def promoted(self, instead_of: Server, timeout: float = 40) -> Server:
        others = [server for server in self.servers if server is not instead_of]
        await self.seats()
        # One that has taken its place already, on a busy machine, counts as well.
        before = [self.by_id(id) for id, of in self._followed.items() if of == id_of(instead_of)]
        assert before, "it has no replica that could follow it"

        async def found() -> Server | None:
            for server in before:
                if server in others and await role(server) == "master":
                    return server
            return None

        server: Server = await until(found, timeout, what="a replica is promoted")
        return server

    async def move_slot(self, slot: int, to: Server, *, atomic: bool = False) -> None:
        """Give a slot to another primary while it is in use."""
        source = await self.slot_owner(slot)
        if atomic:
            await self._move_at_once(slot, source, to)
        else:
            await self._move_by_key(slot, source, to)
        await until(self._owned_by(slot, to), 30, what=f"{to.port} has slot {slot}")

    def _owned_by(self, slot: int, server: Server) -> Callable[[], Coroutine[Any, Any, bool]]:
        async def owned() -> bool:
            return await self.slot_owner(slot) is server

        return owned

    async def _move_by_key(self, slot: int, source: Server, to: Server) -> None:
        await self.begin_move(slot, source, to)
        await self.finish_move(slot, source, to)

    async def begin_move(self, slot: int, source: Server, to: Server) -> None:
        """Key by key; nothing has moved yet."""
        await _insist(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(source))
        await _insist(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(to))

    async def finish_move(self, slot: int, source: Server, to: Server) -> None:
        """Move what has not moved yet, and tell everybody."""
        while keys := await _insist(source, "CLUSTER", "GETKEYSINSLOT", slot, 1000):
            await _insist(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        # Once each: who is told again lets its subscribers go once more.
        for server in dict.fromkeys([to, source, *await self.primaries()]):
            await _insist(server, "CLUSTER", "SETSLOT", slot, "NODE", id_of(to))

    @staticmethod
    async def _move_at_once(slot: int, source: Server, to: Server) -> None:
        await ask(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", id_of(to))

    async def can_move_at_once(self) -> bool:
        """Whether the servers know ``CLUSTER MIGRATESLOTS``."""
        return b"MIGRATESLOTS" in b" ".join(await ask(self.servers[0], "CLUSTER", "HELP"))


async def _insist(server: Server, *arguments: str | int) -> Any:
    """Once more where a fault that the test makes has cut this very connection: half a move would never end."""
    try:
        return await ask(server, *arguments)
    except ConnectionError:
        return await ask(server, *arguments)


class Member(Server):
    """One server of a cluster."""

    def __init__(self, engine: str, config: dict[str, str]) -> None:
        self.id, self.bus = secrets.token_hex(20), _free_port()
        cluster = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-port": str(self.bus)}
        super().__init__(engine, tcp=True, config={**REPLICATION, **cluster, **config})


@dataclass(frozen=True, slots=True)
class Seat:
    """One line of CLUSTER NODES."""

    id: str
    of: str  # its primary's id, "-" for a primary
    well: bool
    slots: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, line: str) -> Self:
        id, _, flags, of, _, _, _, link, *slots = line.split(" ")
        marks = set(flags.split(","))
        well = not marks & {"fail", "fail?", "handshake", "noaddr"} and (link == "connected" or "myself" in marks)
        ranges = (slot.partition("-") for slot in slots if not slot.startswith("["))
        return cls(id, of, well, tuple((int(first), int(last or first)) for first, _, last in ranges))

    @property
    def told(self) -> tuple[str, str, tuple[tuple[int, int], ...]]:
        return self.id, self.of, self.slots


@dataclass(frozen=True, slots=True)
class View:
    """How one server sees its cluster."""

    state: str
    link: str  # to its primary; "up" for a primary
    seats: list[Seat]


def id_of(server: Server) -> str:
    """What a cluster calls it."""
    assert isinstance(server, Member)
    return server.id
