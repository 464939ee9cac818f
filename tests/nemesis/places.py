"""Where the data is: one server, Sentinel or a cluster, with the faults that servers can have there."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import redis.asyncio
from redis.crc import key_slot
from redis.exceptions import RedisError

from bridge.keys import Keys
from tests.faults.pace import elapsed
from tests.nemesis.history import Key
from tests.servers import Server
from tests.topologies import ManyServers, Topology, Watched, ask
from tests.topologies.base import ASK_S
from tests.waiting import until

DETECTION_MS = 2000  # of a lost primary: twice what a process waits for an answer
CLOCK_SOURCE = Path(__file__).with_name("clock_shift.c")
SHARDS = 16


class Place(Protocol):
    """What a run needs of it."""

    kind: str
    servers: list[Server]

    @property
    def url(self) -> str: ...
    async def primaries(self) -> list[Server]: ...
    async def heal(self) -> None: ...
    def destroy(self) -> None: ...


class Alone:
    """One server, whose clock can be set where there is a C compiler."""

    kind = "standalone"

    def __init__(self, engine: str) -> None:
        self.server = Server(engine, tcp=True, config={})
        self.servers = [self.server]
        self._shift = self.server.directory / "clock-shift"
        self._shift.write_bytes(struct.pack("<q", 0))
        library = _clock_library(self.server.directory)
        self.has_clock = library is not None
        if library is not None:
            faked = [f"LD_PRELOAD={library}", f"CLOCK_SHIFT={self._shift}"]
            self.server._command = ["/usr/bin/env", *faked, *self.server._command]

    @property
    def url(self) -> str:
        return self.server.url

    async def primaries(self) -> list[Server]:
        return [self.server]

    def set_clock(self, seconds: int) -> None:
        """The server's clock differs from this machine's by so much from now on."""
        with self._shift.open("r+b") as shift:
            shift.write(struct.pack("<q", seconds))

    async def heal(self) -> None:
        self.set_clock(0)
        if self.server.running:
            self.server.cont()
        else:
            await self.server.restart()

    def destroy(self) -> None:
        self.server.destroy()


@asynccontextmanager
async def launched(kind: str, engine: str) -> AsyncIterator[Any]:
    """A place that is well, and gone afterwards."""
    place: Any
    if kind == "standalone":
        place = Alone(engine)
        await place.server.restart() if place.server._process else place.server._spawn()
        await until(place.server.answers, 20)
    elif kind == "sentinel":
        place = await Watched.launch(engine, down_after_ms=DETECTION_MS)
    else:
        place = await ManyServers.launch(engine, node_timeout_ms=DETECTION_MS)
    try:
        yield place
    finally:
        with suppress(Exception):
            for server in place.servers:
                if server.running:
                    server.cont()
        place.destroy()


async def abilities(place: Any) -> Collection[str]:
    """What its engine and this machine can do, as schedules name it."""
    found = set()
    if isinstance(place, Alone) and place.has_clock:
        found.add("clock")
    if isinstance(place, ManyServers) and await place.can_move_at_once():
        found.add("atomic slot moves")
    return found


_soon = partial(ask, within_s=ASK_S)  # a fault hits whoever it finds; others may be stopped


def all_servers(place: Any) -> list[Server]:
    return list(place.everybody) if isinstance(place, Topology) else list(place.servers)


async def a_primary(place: Any, pick: int) -> Server:
    """One of those that serve now."""
    primaries: list[Server] = await until(place.primaries, 10, what="there is a primary")
    if isinstance(place, Watched):
        return await place.named()
    return primaries[pick % len(primaries)]


async def cut_links(place: Any, primary: Server) -> None:
    """Have the replicas of a primary not follow it any more: it refuses them, as it does with a wrong password."""
    replicas = await place.replicas(primary) if isinstance(place, ManyServers) else place.servers
    for replica in replicas:
        if replica is not primary:
            await _introduce(replica, "nobody", "wrong")
    await _soon(primary, "CLIENT", "KILL", "TYPE", "replica")


async def mend_links(place: Any) -> None:
    """Of all servers that run: who was cut off may be a primary by now.

    Sentinel has a server write its settings down when it gives it another primary, the wrong password among them.
    """
    for server in place.servers:
        await _introduce(server, "", "")
        with suppress(RedisError, OSError):
            await _soon(server, "CONFIG", "REWRITE")


async def _introduce(server: Server, user: str, password: str) -> None:
    with suppress(RedisError, OSError):
        await _soon(server, "CONFIG", "SET", "masteruser", user)
        await _soon(server, "CONFIG", "SET", "masterauth", password)


async def kill_clients(place: Any, kind: str) -> None:
    for server in await place.primaries():
        with suppress(RedisError, OSError):
            await _soon(server, "CLIENT", "KILL", "TYPE", kind)


async def flush_scripts(place: Any) -> None:
    for server in place.servers:
        with suppress(RedisError, OSError):
            await _soon(server, "SCRIPT", "FLUSH")


async def squeeze(place: Any, on: bool) -> None:
    """Let no primary take what needs memory, or let all again."""
    for server in await place.primaries() if on else place.servers:
        with suppress(RedisError, OSError):
            used = _fact(await _soon(server, "INFO", "memory"), "used_memory") if on else "0"
            await _soon(server, "CONFIG", "SET", "maxmemory", used)


async def move_slots(place: ManyServers, chance: random.Random, *, atomic: bool) -> str:
    """Give the slot of a shard to another primary; what was moved."""
    key = Keys().commands(chance.randrange(SHARDS))
    owner, primaries = await place.owner(key), await place.primaries()
    to = chance.choice([server for server in primaries if server is not owner])
    await place.move_slot(_slot(key), to, atomic=atomic)
    return f"{key} to {to.port}"


async def connections(place: Any) -> int:
    """Connections of the bridge to all servers."""
    count = 0
    for server in place.servers:
        clients = await ask(server, "CLIENT", "LIST")
        count += clients.decode().count("name=chat-backoffice-bridge")
    return count


async def promoted(place: Any, instead_of: Server) -> Server:
    return await place.promoted(instead_of, 30)  # type: ignore[no-any-return]


async def replica_links_are_up(place: Any) -> None:
    if isinstance(place, Topology):
        await place.healthy()


async def quiet(server: Server, seconds: float) -> None:
    """SIGSTOP for so long."""
    server.stop()
    try:
        await elapsed(seconds)
    finally:
        server.cont()


def _slot(key: str) -> int:
    return key_slot(key.encode())


def _fact(info: bytes, name: str) -> str:
    return next(line.partition(":")[2] for line in info.decode().splitlines() if line.startswith(f"{name}:"))


def _clock_library(directory: Path) -> Path | None:
    """A library that shifts a server's clock; None where it cannot be built."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = directory / "clock_shift.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", library, CLOCK_SOURCE]
    built = subprocess.run(command, capture_output=True, check=False)
    return library if built.returncode == 0 else None


async def all_keys(place: Any) -> list[Key]:
    """Of all primaries."""
    found = []
    for server in await place.primaries():
        client = redis.asyncio.Redis.from_url(server.url)
        async with client:
            async for name in client.scan_iter(count=1000):
                expires = await client.pttl(name) != -1
                found.append(Key(name.decode(), expires))
    return found
