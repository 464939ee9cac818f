"""Subscriptions dropped, stalled and held while publications go by: everybody has each once and in order, or is told.

Two rooms: what a quiet one misses, its log still has; a busy one's does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from bridge.channels import Channel
from bridge.client import Bridge
from bridge.envelope import Position
from tests.chatserver.process import Process, settings
from tests.chatserver.traveller import Traveller
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.proxy import Proxy
from tests.servers import Server
from tests.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SHARDS = 4
QUIET_SHARE = 50  # of so many publications, one is the quiet room's
EACH = 3  # clients in each room
TEXT = "about as much as somebody says at once, now and then, in a room of a chat " * 3


class Scene:
    """A node and a listener with connections of their own to the server; the publisher has another."""

    def __init__(self, server: Server, publisher: Bridge, proxy: Proxy, node: Process, listener: Listener) -> None:
        self.server, self.publisher, self.proxy = server, publisher, proxy
        self.node, self.listener = node, listener
        self.travellers: dict[str, list[Traveller]] = {}
        self.last: dict[str, Position] = {}

    @property
    def pids(self) -> list[int]:
        return [self.node.popen.pid, self.listener.pid]

    async def publish(self, count: int) -> None:
        """That many, as fast as they are taken."""
        for start in range(0, count, 200):
            calls = [self._publish("quiet" if i % QUIET_SHARE == 0 else "busy") for i in range(start, start + 200)]
            await asyncio.gather(*calls)

    async def _publish(self, room: str) -> None:
        said = {"user": "u0", "name": "U", "text": TEXT}
        channel = Channel.of_subject(f"room:{room}", SHARDS)
        place = await self.publisher.channels.publish(channel, "message", said)
        self.last[room] = max(place, self.last.get(room, place), key=lambda each: each.offset)

    async def all_have_all(self) -> None:
        """Until everybody is where the channels are."""
        for room, travellers in self.travellers.items():
            await until(
                lambda room=room, travellers=travellers: all(t.at >= self.last[room].offset for t in travellers),
                60,
                what=lambda room=room, travellers=travellers: f"{room} {[t.at for t in travellers]} {self.last[room]}",
            )
        await until(lambda: self.listener.offsets[-1] >= self.last["busy"].offset, 60, what="the listener has the last")


class Listener:
    """See `listener`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.offsets: list[int] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    async def read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.offsets.append(int(line.split()[1]))


@contextlib.asynccontextmanager
async def listening(url: str) -> AsyncIterator[Listener]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.listener", url, str(SHARDS), "room:busy", stdout=asyncio.subprocess.PIPE
    )
    listener = Listener(process)
    reading = asyncio.create_task(listener.read())
    try:
        yield listener
    finally:
        process.kill()
        await process.wait()
        await reading


@pytest.fixture
async def scene(
    fault: str,
    start_server: Callable[..., Server],
    start_proxy: Callable[..., Awaitable[Any]],
    spawn: Callable[..., Process],
) -> AsyncIterator[Scene]:
    # The limit at which a server cuts a subscriber that lags: 32 MB by default, here what a stall of seconds fills.
    server = start_server(client_output_buffer_limit="pubsub 256kb 128kb 5")
    proxy = await start_proxy(server)
    where = proxy.url if fault == "held" else server.url  # a proxy would read on while they are stalled
    node = spawn(**settings(server, BRIDGE_REDIS_URL=where))
    url = (await node.ready())["url"]
    async with (
        Bridge.connect(server.url, shards=SHARDS, timeout=10) as publisher,  # it sends thousands at once
        listening(where) as listener,
        asyncio.TaskGroup() as background,
    ):
        scene = Scene(server, publisher, proxy, node, listener)
        running = []
        for room in ("busy", "quiet"):
            receipt = await publisher.publish("room.open", f"room:{room}", {}, by="op")
            assert await publisher.outcome(receipt.id, wait=10)
            scene.travellers[room] = [Traveller(f"{room}{i}", room, [url]) for i in range(EACH)]
            running += [background.create_task(each.run()) for each in scene.travellers[room]]
        await until(lambda: all(t.position for ts in scene.travellers.values() for t in ts), 60, what="they joined")
        while not listener.offsets:
            await scene.publish(QUIET_SHARE)
            await elapsed(0.05)
        yield scene
        for task in running:
            task.cancel()


async def dropped(scene: Scene, count: int) -> None:
    """The server ends every subscription, again and again."""
    client = scene.server.client()
    for _ in range(10):
        await scene.publish(count // 10)
        await client.client_kill_filter(_type="pubsub")


async def stalled(scene: Scene, count: int) -> None:
    """The subscribers do not run while so much goes by that the server cuts them."""
    client = scene.server.client()

    async def subscribers() -> int:
        return sum("P" in each["flags"] for each in await client.client_list())

    async def cut() -> bool:
        return await subscribers() <= before - len(scene.pids)

    before = await subscribers()
    for pid in scene.pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        await scene.publish(count)
        await until(cut, 30, what="the server cuts them")
    finally:
        for pid in scene.pids:
            os.kill(pid, signal.SIGCONT)


async def held(scene: Scene, count: int) -> None:
    """Nothing arrives at the subscribers, nothing is refused: silence, until they ask."""
    scene.proxy.black_hole()
    await scene.publish(count)
    await elapsed(5)
    scene.proxy.heal()


FAULTS = {"dropped": dropped, "stalled over the server's limit": stalled, "held": held}


@pytest.mark.parametrize("fault", FAULTS)
async def test_broadcasts_arrive_once_and_in_order_or_their_loss_is_told(
    scene: Scene, fault: str, full: bool, figures: Figures
) -> None:
    count = 40_000 if full else 4000
    await FAULTS[fault](scene, count)
    await scene.publish(200)
    began = time.monotonic()
    await scene.all_have_all()
    figures.report(
        f"subscription {fault}", published=count, all_have_all_after_s=round(time.monotonic() - began, 2),
        told_of_loss={room: sum(t.losses for t in ts) for room, ts in scene.travellers.items()},
    )  # fmt: skip
    for traveller in (t for travellers in scene.travellers.values() for t in travellers):
        assert traveller.holes() == [], traveller.user
        assert traveller.offsets_of_joins_are_followed(), traveller.user
    quiet = scene.travellers["quiet"]
    assert [t.losses for t in quiet] == [0] * EACH, [t.codes for t in quiet]
    busy = scene.travellers["busy"]
    assert all(code in (4004, 4001) for t in busy for code in t.codes)
    if fault != "dropped":  # far more than its log holds
        assert all(t.losses for t in busy)
    # A subscriber of the library is told by a jump: never backwards, and none where the log had it.
    jumps = [(before, after) for before, after in pairwise(scene.listener.offsets) if after != before + 1]
    assert all(after > before + 1 for before, after in jumps)
    assert jumps or fault == "dropped"
