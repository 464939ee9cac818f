"""How each fault is made, and when it is healed: from that moment on everything has to work again by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from redis.exceptions import RedisError
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from tests.chatserver.client import token
from tests.faults.pace import elapsed
from tests.nemesis import places
from tests.nemesis.clock import Clock
from tests.nemesis.history import History, Struck
from tests.nemesis.places import Alone
from tests.nemesis.schedule import KINDS, Fault
from tests.nemesis.system import GUEST_NODE, NODES, System
from tests.nemesis.workload import Workload

CLOCK_BACK_S = -20
CUT_S = 1.0  # for which replicas lag before their primary is killed
SLOTS = 3  # moved in one fault
DEAF = 10  # clients that do not read
HEAL_S = 60


class Strikes:
    """Makes the faults of a schedule; ``struck`` has what was made."""

    def __init__(self, system: System, workload: Workload, history: History, clock: Clock) -> None:
        self._system, self._place = system, system.place
        self._workload, self._history, self._clock = workload, history, clock
        self._how: dict[str, Callable[[Fault, Struck], Awaitable[None]]] = {
            "node killed": self._kill_node,
            "node paused": self._pause_node,
            "nodes replaced one by one": self._roll,
            "node joins and leaves": self._visit,
            "API killed": self._kill_api,
            "poison kills its nodes": self._poison,
            "server killed": self._kill_server,
            "server stalls": self._stall,
            "server's clock set back": self._set_clock,
            "primary killed": self._kill_primary,
            "primary paused until replaced": self._pause_primary,
            "link cut, primary killed": self._cut_and_kill,
            "planned fail-over": self._fail_over,
            "slots move key by key": self._move_slots,
            "slots move at once": self._move_slots,
            "memory is short": self._squeeze,
            "scripts forgotten": self._flush_scripts,
            "connections killed": self._kill_clients,
            "subscriptions killed": self._kill_clients,
            "connections are black holes": self._black_hole,
            "clients that do not read": self._deafen,
        }
        assert self._how.keys() == KINDS.keys()

    async def strike(self, fault: Fault) -> None:
        """Make the fault, and what it takes that the next one can come."""
        now = self._clock.now()
        struck = Struck(fault.wave, fault.kind, "", now, 0.0, loses=KINDS[fault.kind].loses)
        self._history.struck.append(struck)
        try:
            async with asyncio.timeout(HEAL_S):
                await self._how[fault.kind](fault, struck)
        except (RedisError, OSError, AssertionError) as error:  # a server that another fault keeps busy
            struck.target += f" (gave up: {type(error).__name__} {str(error)[:200]})"
            await self._place.heal()
        finally:
            struck.healed = struck.healed or self._clock.now()

    def _healed(self, struck: Struck) -> None:
        struck.healed = self._clock.now()

    def _node(self, fault: Fault, struck: Struck) -> str:
        names = [name for name in self._system.running() if name in NODES] or list(NODES)
        struck.target = names[fault.pick % len(names)]
        return struck.target

    # processes

    async def _kill_node(self, fault: Fault, struck: Struck) -> None:
        name = self._node(fault, struck)
        await self._system.kill(name)
        self._healed(struck)  # the others have to do without it
        await self._system.all_serve()

    async def _pause_node(self, fault: Fault, struck: Struck) -> None:
        name = self._node(fault, struck)
        self._system.send(name, signal.SIGSTOP)
        await elapsed(fault.seconds)
        self._system.send(name, signal.SIGCONT)

    async def _roll(self, fault: Fault, struck: Struck) -> None:
        struck.target = "all nodes"
        for name in NODES:
            await self._system.leave(name)
            await self._system.join(name)

    async def _visit(self, fault: Fault, struck: Struck) -> None:
        struck.target = GUEST_NODE
        await self._system.join(GUEST_NODE)
        try:
            await elapsed(fault.seconds)
        finally:
            await self._system.leave(GUEST_NODE)

    async def _kill_api(self, fault: Fault, struck: Struck) -> None:
        struck.target = "back office"
        await self._system.kill("backoffice")
        await self._system.all_serve()

    async def _poison(self, fault: Fault, struck: Struck) -> None:
        issued = await self._workload.issue(
            "nemesis.die", f"room:poison{fault.wave}", {}, expected="dead killed_its_node"
        )
        struck.target = f"shard {issued.id.partition('-')[0]}"
        await self._workload.ended(issued, HEAL_S)
        self._healed(struck)
        await self._system.all_serve()

    # servers

    async def _kill_server(self, fault: Fault, struck: Struck) -> None:
        assert isinstance(self._place, Alone)
        self._place.server.kill()
        await elapsed(fault.seconds)
        await self._place.server.restart()

    async def _stall(self, fault: Fault, struck: Struck) -> None:
        server = await self._primary(fault, struck)
        await places.quiet(server, fault.seconds)

    async def _set_clock(self, fault: Fault, struck: Struck) -> None:
        assert isinstance(self._place, Alone)
        struck.target = f"{CLOCK_BACK_S} s"
        self._place.set_clock(CLOCK_BACK_S)
        await elapsed(fault.seconds)
        self._place.set_clock(0)

    async def _primary(self, fault: Fault, struck: Struck) -> Any:
        server = await places.a_primary(self._place, fault.pick)
        struck.target = f"port {server.port}"
        return server

    async def _kill_primary(self, fault: Fault, struck: Struck) -> None:
        server = await self._primary(fault, struck)
        server.kill()
        await self._replaced(server, struck)

    async def _pause_primary(self, fault: Fault, struck: Struck) -> None:
        server = await self._primary(fault, struck)
        self._place.stop(server)  # type: ignore[attr-defined]
        await self._replaced(server, struck)

    async def _cut_and_kill(self, fault: Fault, struck: Struck) -> None:
        server = await self._primary(fault, struck)
        await places.cut_links(self._place, server)
        try:
            await elapsed(CUT_S)
            server.kill()
            await places.promoted(self._place, server)
            self._healed(struck)
        finally:
            await places.mend_links(self._place)
        await self._place.heal()

    async def _replaced(self, server: Any, struck: Struck) -> None:
        await places.promoted(self._place, server)
        self._healed(struck)
        await self._place.heal()

    async def _fail_over(self, fault: Fault, struck: Struck) -> None:
        server = await self._primary(fault, struck)
        await self._place.fail_over(server)  # type: ignore[attr-defined]
        self._healed(struck)
        await self._place.heal()

    async def _move_slots(self, fault: Fault, struck: Struck) -> None:
        chance = random.Random(fault.pick)
        moved = [
            await places.move_slots(self._place, chance, atomic=fault.kind == "slots move at once")  # type: ignore[arg-type]
            for _ in range(SLOTS)
        ]
        struck.target = ", ".join(moved)
        self._healed(struck)
        await places.replica_links_are_up(self._place)

    async def _squeeze(self, fault: Fault, struck: Struck) -> None:
        await places.squeeze(self._place, True)
        try:
            await elapsed(fault.seconds)
        finally:
            await places.squeeze(self._place, False)

    # connections

    async def _flush_scripts(self, fault: Fault, struck: Struck) -> None:
        await places.flush_scripts(self._place)

    async def _kill_clients(self, fault: Fault, struck: Struck) -> None:
        await places.kill_clients(self._place, "normal" if fault.kind == "connections killed" else "pubsub")

    async def _black_hole(self, fault: Fault, struck: Struck) -> None:
        proxy = self._system.proxies[fault.pick % len(self._system.proxies)]
        struck.target = proxy.url
        proxy.black_hole(requests=bool(fault.pick & 2))
        await elapsed(fault.seconds)
        proxy.heal()

    async def _deafen(self, fault: Fault, struck: Struck) -> None:
        """Clients that ask for the history again and again and read nothing."""
        urls = self._system.node_urls()
        struck.target = f"{DEAF} clients"
        async with asyncio.TaskGroup() as deaf:
            for i in range(DEAF):
                deaf.create_task(_ask_and_do_not_read(urls[i % len(urls)], f"deaf{i}", f"c{i}", fault.seconds))


async def _ask_and_do_not_read(url: str, user: str, room: str, seconds: float) -> None:
    with contextlib.suppress(OSError, WebSocketException, TimeoutError):
        async with (
            asyncio.timeout(seconds),
            connect(
                url, subprotocols=[Subprotocol("bridge.v1")], compression=None, max_queue=1, close_timeout=0.5
            ) as socket,
        ):
            frames: list[dict[str, Any]] = [{"type": "auth", "token": token(user), "client": {"name": "deaf"}}]
            frames += [{"type": "join", "room": room}] + [{"type": "history", "room": room, "limit": 100}] * 10_000
            for id, frame in enumerate(frames):
                await socket.send(orjson.dumps({"id": id + 1, **frame}), text=True)
                if not id % 10:
                    await elapsed(0.02)
