"""What every topology of the tests can do: what operators do to it, and what accidents do."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.faults.pace import elapsed
from tests.servers import DEFAULT_ENGINE, START_S, Server
from tests.waiting import until

HEALTHY_S = 60
ASK_S = 0.5  # for an answer of one that may be stopped
PATIENT_S = 10.0  # for an answer of one that runs, on a busy machine
LAUNCHES = 3  # somebody may take a free port before its server does
_FLUSH = "redis.call('FLUSHALL') return redis.call('TIME')"
UNBOUND = {"maxmemory": "0", "min-replicas-to-write": "0"}  # what a test may have set
REPLICATION = {
    "bind": "127.0.0.1",
    "repl-diskless-sync": "yes",
    "repl-diskless-sync-delay": "0",
    "repl-ping-replica-period": "1",
}


async def ask(server: Server, *arguments: str | int, within_s: float = PATIENT_S) -> Any:
    """One call and its raw answer; raises RedisError from a server that is stopped or gone."""
    client = redis.asyncio.Redis.from_url(
        server.url, socket_timeout=within_s, socket_connect_timeout=within_s, retry=Retry(NoBackoff(), 0)
    )
    async with client:
        client.response_callbacks.clear()
        return await client.execute_command(*arguments)  # type: ignore[no-untyped-call]


async def role(server: Server, within_s: float = ASK_S) -> str:
    """``master``, ``slave``, or ``away``."""
    try:
        return str((await ask(server, "ROLE", within_s=within_s))[0].decode())
    except (RedisError, OSError):
        return "away"


class Topology(ABC):
    """Several servers that belong together; ``url`` is what the bridge connects to."""

    kind: ClassVar[str]
    detection: ClassVar[str]  # option: ms until a lost primary is noticed; "" = nobody replaces it
    forgets: ClassVar[bool] = True  # a replica that takes over may lack the last writes

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.detection_ms = 0  # as long as it takes at first
        self.servers: list[Server] = []  # those that hold data
        self.helpers: list[Server] = []

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    def directory(self) -> Path:
        """For what a test wants to keep as long as the servers."""
        return self.servers[0].directory

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
    async def detect_after(self, ms: int) -> None:
        """From now on until ``reset``: so long until a lost primary is noticed."""

    @abstractmethod
    async def owner(self, key: str) -> Server:
        """The primary that has ``key`` now, or had it before it went away."""

    @abstractmethod
    async def fail_over(self, primary: Server, how: str = "planned") -> Server:
        """Have a replica take the place of ``primary``; returns it once it is the primary.

        ``planned``: nothing is lost. ``forced`` (a cluster's ``FORCE`` and ``TAKEOVER``): the primary is not asked.
        """

    @abstractmethod
    async def promoted(self, instead_of: Server, timeout: float = 40) -> Server:
        """Wait until somebody has taken the place of a primary that was killed or stopped."""

    async def healthy(self, timeout: float = HEALTHY_S) -> None:
        """Wait until everybody runs, knows who is who, and every replica follows its primary."""
        found: list[str] = []

        async def well() -> bool:
            await self.nudge()
            found[:] = await self.faults()
            return not found

        await until(well, timeout, what=lambda: f"{self.kind} is healthy: {'; '.join(found)}{self._ends()}")

    async def crash(self, primary: Server, *, away_s: float = 0.0) -> None:
        """SIGKILL; returns once its keys are served again: by its replica, which ``away_s`` does not matter to."""
        primary.kill()
        await self.promoted(primary)

    async def stall(self, primary: Server, seconds: float) -> None:
        """SIGSTOP for so long; a replica may take its place, unless it is back before that is decided."""
        self.stop(primary)
        await elapsed(seconds)
        self.cont(primary)

    def stop(self, server: Server) -> None:
        """SIGSTOP; ``heal`` and ``cont`` let it go on."""
        server.stop()

    def cont(self, server: Server) -> None:
        server.cont()

    async def heal(self) -> None:
        """Let the stopped go on, start the killed again, and wait until all is well."""
        for server in self.everybody:
            if server.stopped:
                self.cont(server)
        for server in self.everybody:
            if not server.running:
                server.kill()
                server._spawn()
        await self.healthy()

    async def reset(self) -> None:
        """As new: healthy, without keys and scripts; who is primary may have changed."""
        await self.heal()
        await self.detect_after(self.detection_ms)
        await self.configure(**UNBOUND)
        await self.flush()
        await self.flush_scripts()
        await self.healthy()
        await until(self._empty, what="the replicas are empty as well")

    async def _empty(self) -> bool:
        return not any(await asyncio.gather(*(ask(server, "DBSIZE") for server in self.servers)))

    async def configure(self, **options: str) -> None:
        """Set options of all servers that hold data (``_`` for ``-``)."""
        pairs = [word for name, value in options.items() for word in (name.replace("_", "-"), value)]
        await asyncio.gather(*(ask(server, "CONFIG", "SET", *pairs) for server in self.servers))

    async def flush(self) -> dict[Server, float]:
        """Empty every primary; ms of the server's clock when that was."""
        primaries = await self.primaries()
        times = await asyncio.gather(*(ask(server, "EVAL", _FLUSH, 0) for server in primaries))
        return {server: int(s) * 1000 + int(us) / 1000 for server, (s, us) in zip(primaries, times, strict=True)}

    def destroy(self) -> None:
        for server in self.everybody:
            server.destroy()

    async def primary(self, chance: random.Random) -> Server:
        """Any one of them."""
        return chance.choice(await self.primaries())

    async def primaries(self) -> list[Server]:
        """Of all that run: who is late because the machine is busy is one all the same."""
        waits = (ASK_S if server.stopped else PATIENT_S for server in self.servers)
        roles = await asyncio.gather(*map(role, self.servers, waits))
        return [server for server, is_ in zip(self.servers, roles, strict=True) if is_ == "master"]

    async def synced(self, *servers: Server) -> None:
        """Until a primary and replicas of its have the same."""

        async def equal() -> bool:
            facts = [facts_of(await ask(server, "INFO", "replication")) for server in servers]
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


def facts_of(info: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, _, value in pairs}


def has_role(server: Server, wanted: str) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def has_it() -> bool:
        return await role(server) == wanted

    return has_it
