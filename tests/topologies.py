"""Real Sentinel and Cluster set-ups for tests, on free ports, with the operations that operators and accidents perform.

They start from configuration files that know everybody already, so that nothing has to be
discovered first: a cluster serves after its two seconds of caution, Sentinel after the first sync.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from tests.servers import DEFAULT_ENGINE, ENGINES, START_S, Server, _free_port
from tests.waiting import until

SLOTS = 16384
SERVICE = "chat"
HEALTHY_S = 30
ASK_S = 0.5
LAUNCHES = 3  # somebody may take a free port before its server does
REPLICATION = {
    "bind": "127.0.0.1",
    "repl-diskless-sync": "yes",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}


async def ask(server: Server, *arguments: str | int) -> Any:
    """One call and its raw answer, soon: raises RedisError from a server that is stopped or gone."""
    client = redis.asyncio.Redis.from_url(
        server.url, socket_timeout=ASK_S, socket_connect_timeout=ASK_S, retry=Retry(NoBackoff(), 0)
    )
    async with client:
        client.response_callbacks.clear()
        return await client.execute_command(*arguments)  # type: ignore[no-untyped-call]


async def role(server: Server) -> str:
    """``master``, ``slave``, or ``away``."""
    try:
        return str((await ask(server, "ROLE"))[0].decode())
    except (RedisError, OSError):
        return "away"


class Topology(ABC):
    """Several servers that belong together; ``url`` is what the bridge connects to."""

    kind: ClassVar[str]

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.servers: list[Server] = []  # those that hold data
        self.helpers: list[Server] = []
        self._stopped: set[Server] = set()

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    def everybody(self) -> list[Server]:
        return [*self.servers, *self.helpers]

    @classmethod
    async def launch(cls, engine: str = DEFAULT_ENGINE, **options: Any) -> Self:
        """Start all of it and wait until it is healthy."""
        for left in reversed(range(LAUNCHES)):
            topology = cls(engine, **options)
            try:
                await topology._start()
                return topology
            except BaseException as error:
                taken = "Address already in use" in topology._logs()
                topology.destroy()
                if not (left and taken and isinstance(error, AssertionError)):
                    raise
        raise AssertionError("unreachable")

    async def _start(self) -> None:
        for several in (self.servers, self.helpers):
            for server in several:
                server._spawn()
            for server in several:  # before somebody finds that they are missing
                await until(server.answers, START_S, what=partial(server._complaint, "answers"))
        await self.healthy()

    @abstractmethod
    async def faults(self) -> list[str]:
        """What is not as it should be at this moment."""

    async def nudge(self) -> None:
        """Help with what takes them long by themselves and is no part of any test."""
        return

    @abstractmethod
    async def owner(self, key: str) -> Server:
        """The primary that has ``key`` now, or had it before it went away."""

    @abstractmethod
    async def fail_over(self, primary: Server, how: str = "planned") -> Server:
        """Have a replica take the place of ``primary``; returns it once it is the primary.

        ``planned``: nothing is lost. ``forced`` (a cluster's ``FORCE`` and ``TAKEOVER``): the primary is not asked.
        """

    @abstractmethod
    async def promoted(self, instead_of: Server, timeout: float = 20) -> Server:
        """Wait until somebody has taken the place of a primary that was killed or stopped."""

    async def healthy(self, timeout: float = HEALTHY_S) -> None:
        """Wait until everybody runs, knows who is who, and every replica follows its primary."""
        found: list[str] = []

        async def well() -> bool:
            await self.nudge()
            found[:] = await self.faults()
            return not found

        await until(well, timeout, what=lambda: f"{self.kind} is healthy: {'; '.join(found)}{self._ends()}")

    def stop(self, server: Server) -> None:
        """SIGSTOP; ``heal`` and ``cont`` let it go on."""
        server.stop()
        self._stopped.add(server)

    def cont(self, server: Server) -> None:
        server.cont()
        self._stopped.discard(server)

    async def heal(self) -> None:
        """Let the stopped go on, start the killed again, and wait until all is well."""
        for server in tuple(self._stopped):
            self.cont(server)
        for server in self.everybody:
            if not server.running:
                server.kill()
                server._spawn()
        await self.healthy()

    async def reset(self) -> None:
        """As new: healthy, without keys and scripts; who is primary may have changed."""
        await self.heal()
        for server in self.servers:
            if await role(server) == "master":
                await ask(server, "FLUSHALL")
            await ask(server, "SCRIPT", "FLUSH")
        await self.healthy()

    def destroy(self) -> None:
        for server in self.everybody:
            server.destroy()

    async def primaries(self) -> list[Server]:
        roles = await asyncio.gather(*map(role, self.servers))
        return [server for server, is_ in zip(self.servers, roles, strict=True) if is_ == "master"]

    async def synced(self, *servers: Server) -> None:
        """Until a primary and replicas of its have the same."""

        async def equal() -> bool:
            facts = [_facts(await ask(server, "INFO", "replication")) for server in servers]
            return len({fact.get("slave_repl_offset", fact["master_repl_offset"]) for fact in facts}) == 1

        await until(equal, what="the replicas have everything")

    async def flush_scripts(self) -> None:
        """Every server forgets every script."""
        await asyncio.gather(*(ask(server, "SCRIPT", "FLUSH") for server in self.servers))

    def _logs(self) -> str:
        logs = (server.directory / "server.log" for server in self.everybody)
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())

    def _ends(self) -> str:
        gone = [server for server in self.everybody if not server.running]
        return "".join("\n" + server._complaint("has ended") for server in gone)


class ManyServers(Topology):
    """Three primaries with a replica each, or as many as asked for: a Redis Cluster."""

    kind = "cluster"

    def __init__(
        self, engine: str, *, primaries: int = 3, replicas: int = 1, node_timeout_ms: int = 1000, **config: str
    ) -> None:
        super().__init__(engine)
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
                found += [f"{server.port}: {fault}" for fault in self._wrong(view, len(self.servers))]
        if not found and len({tuple(sorted(seat.told for seat in view.seats)) for view in views}) > 1:  # type: ignore[union-attr]
            found.append("they disagree")
        return found

    @staticmethod
    def _wrong(view: View, count: int) -> list[str]:
        faults = []
        if view.state != "ok":
            faults.append(f"cluster_state {view.state}")
        if view.link != "up":
            faults.append(f"link to its primary {view.link}")
        if len(view.seats) != count or not all(seat.well for seat in view.seats):
            faults.append(f"{sum(seat.well for seat in view.seats)} of {count} well")
        primaries = {seat.id for seat in view.seats if seat.of == "-"}
        bare = primaries - {seat.of for seat in view.seats}
        if bare:
            faults.append(f"{len(bare)} primaries without a replica")
        return faults

    async def _view(self, server: Server) -> View:
        nodes, info, own = await asyncio.gather(
            ask(server, "CLUSTER", "NODES"), ask(server, "CLUSTER", "INFO"), ask(server, "INFO", "replication")
        )
        replication = _facts(own)
        return View(
            _facts(info)["cluster_state"],
            replication.get("master_link_status", "up"),
            [Seat.parse(line) for line in nodes.decode().splitlines()],
        )

    async def seats(self) -> list[Seat]:
        """Who is who, as a server tells that sees the cluster well; as the first that answers, where none does."""
        views = await asyncio.gather(*map(self._view, self.servers), return_exceptions=True)
        answered = [view for view in views if isinstance(view, View)]
        assert answered, views
        return next((view for view in answered if view.state == "ok"), answered[0]).seats

    def by_id(self, id: str) -> Member:
        return next(member for member in self.members if member.id == id)

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
        await ask(replica, "CLUSTER", "FAILOVER", *([] if how == "planned" else [how]))
        await until(_has_role(replica, "master"), what="the replica is the primary")
        return replica

    async def promoted(self, instead_of: Server, timeout: float = 20) -> Server:
        others = [server for server in self.servers if server is not instead_of]
        before = await self.replicas(instead_of)
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
        await until(self._owned_by(slot, to), what=f"{to.port} has slot {slot}")

    def _owned_by(self, slot: int, server: Server) -> Callable[[], Coroutine[Any, Any, bool]]:
        async def owned() -> bool:
            return await self.slot_owner(slot) is server

        return owned

    async def _move_by_key(self, slot: int, source: Server, to: Server) -> None:
        await ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(source))
        await ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(to))
        while keys := await ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            await ask(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        # Once each: who is told again lets its subscribers go once more.
        for server in dict.fromkeys([to, source, *await self.primaries()]):
            await ask(server, "CLUSTER", "SETSLOT", slot, "NODE", id_of(to))

    @staticmethod
    async def _move_at_once(slot: int, source: Server, to: Server) -> None:
        await ask(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", id_of(to))

    async def can_move_at_once(self) -> bool:
        """Whether the servers know ``CLUSTER MIGRATESLOTS``."""
        return b"MIGRATESLOTS" in b" ".join(await ask(self.servers[0], "CLUSTER", "HELP"))


class Member(Server):
    """One server of a cluster."""

    def __init__(self, engine: str, config: dict[str, str]) -> None:
        self.id, self.bus = secrets.token_hex(20), _free_port()
        cluster = {"cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-port": str(self.bus)}
        super().__init__(engine, tcp=True, config={**REPLICATION, **cluster, **config})


class Watched(Topology):
    """A primary, two replicas and three sentinels that watch them."""

    kind = "sentinel"

    def __init__(
        self, engine: str, *, replicas: int = 2, sentinels: int = 3, down_after_ms: int = 1000, **config: str
    ) -> None:
        super().__init__(engine)
        options = {**REPLICATION, **{name.replace("_", "-"): value for name, value in config.items()}}
        self.servers.append(Remembering(engine, options))
        options["replicaof"] = f"127.0.0.1 {self.servers[0].port}"
        self.servers += [Remembering(engine, options) for _ in range(replicas)]
        self.watchers = [Watcher(engine) for _ in range(sentinels)]
        self.helpers += self.watchers
        for watcher in self.watchers:
            watcher.configure(self, down_after_ms)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{watcher.port}' for watcher in self.helpers)}/{SERVICE}"

    async def _start(self) -> None:
        await super()._start()
        for watcher in self.watchers:
            # By default they look at replicas every 10 s. Detection and fail-over stay as they are.
            await ask(watcher, "SENTINEL", "DEBUG", "INFO-PERIOD", 500)

    async def nudge(self) -> None:
        """A primary that came back is told its place: sentinels take eight seconds over it."""
        names = await self._names()
        for server in await self.primaries():
            if len(names) == 1 and server.port not in names:
                await ask(server, "REPLICAOF", "127.0.0.1", next(iter(names)))
                await ask(server, "CONFIG", "REWRITE")

    async def faults(self) -> list[str]:
        told = await asyncio.gather(*map(self._told, self.helpers), return_exceptions=True)
        faults = [str(answer) for answer in told if isinstance(answer, BaseException)]
        primaries = {answer["port"] for answer in told if isinstance(answer, dict)}
        for answer in told:
            if isinstance(answer, dict):
                faults += self._wrong(answer)
        if len(primaries) > 1:
            faults.append(f"they disagree: {primaries}")
        if not faults:
            faults += await self._unsynced(int(primaries.pop()))
        return faults

    def _wrong(self, told: dict[str, str]) -> list[str]:
        faults = []
        if told["flags"] != "master":
            faults.append(f"the primary is {told['flags']}")
        if int(told["num-slaves"]) != len(self.servers) - 1:
            faults.append(f"{told['num-slaves']} replicas known")
        if int(told["num-other-sentinels"]) != len(self.helpers) - 1:
            faults.append(f"{told['num-other-sentinels']} other sentinels known")
        return faults

    async def _unsynced(self, primary: int) -> list[str]:
        faults = []
        for server in self.servers:
            try:
                facts = _facts(await ask(server, "INFO", "replication"))
            except (RedisError, OSError) as error:
                faults.append(f"{server.port}: {error}")
                continue
            if server.port == primary:
                wrong = facts["role"] != "master" or int(facts["connected_slaves"]) != len(self.servers) - 1
            else:
                wrong = (facts.get("master_port"), facts.get("master_link_status")) != (str(primary), "up")
            if wrong:
                faults.append(f"{server.port}: {facts['role']} of {facts.get('master_port')}")
        return faults

    async def _told(self, watcher: Server) -> dict[str, str]:
        facts = await ask(watcher, "SENTINEL", "MASTER", SERVICE)
        return {name.decode(): value.decode() for name, value in facts.items()}

    async def named(self) -> Server:
        """The primary that most sentinels name now."""
        (port, _), *_ = (await self._names()).most_common()
        return next(server for server in self.servers if server.port == port)

    async def _names(self) -> Counter[int]:
        told = await asyncio.gather(*map(self._told, self.helpers), return_exceptions=True)
        return Counter(int(answer["port"]) for answer in told if isinstance(answer, dict))

    async def owner(self, key: str) -> Server:
        return await self.named()

    async def fail_over(self, primary: Server, how: str = "planned") -> Server:
        """``planned``: the primary takes no writes from the start, so nothing is lost. ``forced``: it does."""
        if how == "planned":
            await self._hold_writes(primary)
        await ask(self.helpers[0], "SENTINEL", "FAILOVER", SERVICE)
        replica = await self.promoted(primary)
        if how == "planned":  # sentinels would wait for it until the pause is over
            await ask(primary, "REPLICAOF", "127.0.0.1", replica.port)
            await ask(primary, "CONFIG", "REWRITE")
            await ask(primary, "CLIENT", "UNPAUSE")
        return replica

    async def _hold_writes(self, primary: Server) -> None:
        """Writes wait until the primary is a replica, which refuses them; replicas have all that went before."""
        await ask(primary, "CLIENT", "PAUSE", 10_000, "WRITE")
        await self.synced(*self.servers)

    async def promoted(self, instead_of: Server, timeout: float = 20) -> Server:
        async def found() -> Server | None:
            server = await self.named()
            return server if server is not instead_of and await role(server) == "master" else None

        server: Server = await until(found, timeout, what="a replica is promoted")
        return server


class Remembering(Server):
    """One that sentinels watch: it has a file in which they note its place, for when it comes back."""

    def __init__(self, engine: str, config: dict[str, str]) -> None:
        super().__init__(engine, tcp=True, config=config)
        program, *options = self._command
        pairs = zip(options[::2], options[1::2], strict=True)
        lines = (f"{name.removeprefix('--')} {value or chr(34) * 2}\n" for name, value in pairs)
        (self.directory / "server.conf").write_text("".join(lines))
        self._command = [program, "server.conf"]


class Watcher(Server):
    """One sentinel."""

    def __init__(self, engine: str) -> None:
        super().__init__(engine, tcp=True, config={})
        self.id = secrets.token_hex(20)
        self._command = [str(ENGINES[engine]()), "sentinel.conf", "--sentinel"]

    def configure(self, topology: Watched, down_after_ms: int) -> None:
        primary, *replicas = topology.servers
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"sentinel myid {self.id}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {len(topology.helpers) // 2 + 1}",
            f"sentinel down-after-milliseconds {SERVICE} {down_after_ms}",
            f"sentinel failover-timeout {SERVICE} 2000",
            f"sentinel parallel-syncs {SERVICE} {len(replicas)}",
            *(f"sentinel known-replica {SERVICE} 127.0.0.1 {replica.port}" for replica in replicas),
            *(
                f"sentinel known-sentinel {SERVICE} 127.0.0.1 {other.port} {other.id}"
                for other in topology.watchers
                if other is not self
            ),
        ]
        (self.directory / "sentinel.conf").write_text("\n".join(lines) + "\n")


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


def _facts(info: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, _, value in pairs}


def _has_role(server: Server, wanted: str) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def has_it() -> bool:
        return await role(server) == wanted

    return has_it


KINDS: dict[str, type[Topology]] = {"sentinel": Watched, "cluster": ManyServers}
