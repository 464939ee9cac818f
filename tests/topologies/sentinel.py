"""A primary with replicas, and sentinels that watch them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from functools import partial

from redis.exceptions import RedisError, ResponseError

from tests.servers import ENGINES, Server
from tests.topologies.base import ASK_S, REPLICATION, Topology, ask, facts_of, role
from tests.waiting import until

SERVICE = "chat"
GIVEN_UP_S = 12.0  # a fail-over that has not come about by then does not


class Watched(Topology):
    """A primary, two replicas and three sentinels that watch them."""

    kind = "sentinel"
    detection = "down_after_ms"

    def __init__(
        self, engine: str, *, replicas: int = 2, sentinels: int = 3, down_after_ms: int = 1000, **config: str
    ) -> None:
        super().__init__(engine)
        self.detection_ms = down_after_ms
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
            # By default they look at replicas every 10 s, and do nothing for 30 s after a stall of their own.
            # Detection and fail-over stay as they are.
            await ask(watcher, "SENTINEL", "DEBUG", "INFO-PERIOD", 500, "TILT-PERIOD", 2000)

    async def nudge(self) -> None:
        """A primary that came back is told its place: sentinels take eight seconds over it."""
        told = await asyncio.gather(*map(self._told, self.helpers), return_exceptions=True)
        views = {(answer["port"], answer["flags"]) for answer in told if isinstance(answer, dict)}
        primaries = {str(server.port): server for server in await self.primaries()}
        if len(views) != 1 or not views <= {(port, "master") for port in primaries}:
            return  # while they replace one, the servers would be told to follow each other
        for port, server in primaries.items():
            if (port, "master") not in views:
                with contextlib.suppress(RedisError):  # it is still loading
                    await ask(server, "REPLICAOF", "127.0.0.1", next(iter(views))[0])
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
                facts = facts_of(await ask(server, "INFO", "replication", within_s=ASK_S))
            except (RedisError, OSError) as error:
                faults.append(f"{server.port}: {error}")
                continue
            if server.port == primary:
                wrong = facts["role"] != "master" or int(facts["connected_slaves"]) != len(self.servers) - 1
            else:
                wrong = (facts.get("master_port"), facts.get("master_link_status")) != (str(primary), "up")
                wrong |= facts.get("slave_repl_offset") == "0"  # it has the copy, and follows within a second
            if wrong:
                faults.append(f"{server.port}: {facts['role']} of {facts.get('master_port')}")
        return faults

    async def _told(self, watcher: Server) -> dict[str, str]:
        facts = await ask(watcher, "SENTINEL", "MASTER", SERVICE, within_s=ASK_S)
        return {name.decode(): value.decode() for name, value in facts.items()}

    async def named(self) -> Server:
        """The primary that most sentinels name now."""
        names = await until(self._names, what="a sentinel answers")  # on a busy machine all may be late at once
        (port, _), *_ = names.most_common()
        return next(server for server in self.servers if server.port == port)

    async def _names(self) -> Counter[int]:
        told = await asyncio.gather(*map(self._told, self.helpers), return_exceptions=True)
        return Counter(int(answer["port"]) for answer in told if isinstance(answer, dict))

    async def detect_after(self, ms: int) -> None:
        for watcher in self.watchers:
            await ask(watcher, "SENTINEL", "SET", SERVICE, "down-after-milliseconds", ms)

    async def owner(self, key: str) -> Server:
        return await self.named()

    async def fail_over(self, primary: Server, how: str = "planned") -> Server:
        """``planned``: the primary takes no writes from the start, so nothing is lost. ``forced``: it does.

        ``coordinated``: planned by the sentinels together with the primary, which Valkey's know from 9 on. Its writes
        wait until a replica has said that it has them all, which replicas do once a second.
        """
        if how == "coordinated":
            return await self._replaced(primary, "COORDINATED")
        if how != "planned":
            return await self._replaced(primary)
        await self._hold_writes(primary)
        try:
            replica = await self._replaced(primary)
            await ask(primary, "REPLICAOF", "127.0.0.1", replica.port)  # sentinels would wait until the pause is over
            await ask(primary, "CONFIG", "REWRITE")
        finally:
            with contextlib.suppress(RedisError):
                await ask(primary, "CLIENT", "UNPAUSE")
        return replica

    async def _replaced(self, primary: Server, *options: str) -> Server:
        """Asked again where it comes to nothing: sentinels that were held up meanwhile break it off."""
        for last in (False, False, True):
            await until(partial(self._begun, *options), what="a sentinel begins to fail over")
            try:
                return await self.promoted(primary, GIVEN_UP_S)
            except AssertionError:
                if last:
                    raise
        raise AssertionError("unreachable")

    async def _begun(self, *options: str) -> bool:
        try:
            await ask(self.helpers[0], "SENTINEL", "FAILOVER", SERVICE, *options)
        except ResponseError as error:
            # One that has not heard of the replicas for a while, on a busy machine, would promote none of them.
            if "NOGOODSLAVE" in str(error):
                return False
            if "INPROG" not in str(error):
                raise
        return True

    async def can_coordinate(self) -> bool:
        """Whether they know ``COORDINATED``: asked for a service that nobody watches."""
        try:
            await ask(self.helpers[0], "SENTINEL", "FAILOVER", "nobody's", "COORDINATED")
        except ResponseError as error:
            return "wrong number of arguments" not in str(error)
        return True

    async def _hold_writes(self, primary: Server) -> None:
        """Writes wait until the primary is a replica, which refuses them; replicas have all that went before."""
        await ask(primary, "CLIENT", "PAUSE", 60_000, "WRITE")
        await self.synced(*self.servers)

    async def promoted(self, instead_of: Server, timeout: float = 40) -> Server:
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
