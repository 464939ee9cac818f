"""What chat clients see while the primary of their room changes: every message once, in order; and how long nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from pydantic import SecretStr

from bridge.channels import Channel
from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.errors import BridgeError
from bridge.topology import slot_of
from tests.chatserver.conftest import Chat
from tests.chatserver.traveller import Traveller
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.topologies import ManyServers, Topology, Watched, role
from tests.waiting import answered, until

SHARDS = 12
ROOMS = ("r1", "r2", "r3", "r4")
EVERY_S = 0.02  # in each room


@pytest.fixture
def detection_ms() -> int:
    """A node's calls may take a second."""
    return 2000


class Talk:
    """While entered, something is published in every room, and somebody is in each."""

    def __init__(self, chat: Chat, urls: list[str]) -> None:
        self.bridge = chat.bridge
        self.travellers = [Traveller(f"t-{room}", room, urls) for room in ROOMS]
        self._over = asyncio.Event()

    async def publish(self, room: str) -> None:
        channel = Channel.of_subject(f"room:{room}", SHARDS)
        while not self._over.is_set():
            try:
                await self.bridge.channels.publish(channel, "message", {"user": "u", "name": "U", "text": "."})
            except BridgeError:  # it may have been published or not: the log knows
                continue
            await elapsed(EVERY_S)

    async def more(self, count: int) -> None:
        """Until everybody has seen so many more."""
        wanted = [traveller.at + count for traveller in self.travellers]
        await until(lambda: all(t.at >= at for t, at in zip(self.travellers, wanted, strict=True)), 30, what=self._ats)

    async def all_have_all(self) -> None:
        """Nothing is published any more, and what was has arrived."""
        for traveller in self.travellers:
            await until(partial(self._has_all, traveller), 30, what=self._ats)

    async def _has_all(self, traveller: Traveller) -> bool:
        """Asked again each time: a primary of the past may answer for a while after somebody has taken its place."""
        channel = Channel.of_subject(f"room:{traveller.room}", SHARDS)
        last = await answered(partial(self.bridge.channels.position, channel))
        return last is not None and traveller.at >= last.offset

    def end(self) -> None:
        self._over.set()

    def _ats(self) -> str:
        return str({t.room: (t.at, t.codes) for t in self.travellers})


@asynccontextmanager
async def talking(topology: Topology) -> AsyncIterator[Talk]:
    settings = BridgeSettings(redis_url=SecretStr(topology.url), shards=SHARDS)
    async with Bridge.connect(settings) as bridge:
        chat = Chat(bridge, settings)
        try:
            node = await answered(chat.start_node)
            for room in ROOMS:
                await chat.done("room.open", f"room:{room}", {})
            talk = Talk(chat, [node.url])
            publishing = [asyncio.create_task(talk.publish(room)) for room in ROOMS]
            staying = [asyncio.create_task(traveller.run()) for traveller in talk.travellers]
            try:
                await until(lambda: all(t.stays and t.stays[0] for t in talk.travellers), 30, what="they hear")
                yield talk
                talk.end()
                await asyncio.wait(publishing)
                await talk.all_have_all()
            finally:
                for task in (*publishing, *staying):
                    task.cancel()
                await asyncio.wait((*publishing, *staying))
        finally:
            await chat.close()


def report(figures: Figures, scenario: str, talk: Talk, **more: object) -> None:
    figures.report(
        f"chat clients: {scenario}",
        **more,
        messages=sum(len(stay) for t in talk.travellers for stay in t.stays),
        silence_s=round(max(t.silence_s for t in talk.travellers), 3),
        told_of_loss=sum(t.losses for t in talk.travellers),
    )


async def promoted_at(topology: Topology) -> float:
    """When another server than now is a primary, by the loop's clock."""
    loop, before = asyncio.get_running_loop(), await topology.primaries()

    async def found() -> float | None:
        for server in topology.servers:
            if server not in before and await role(server) == "master":
                return loop.time()
        return None

    moment: float = await until(found, 30, what="a replica is promoted")
    return moment


@pytest.mark.parametrize("how", ["planned", "coordinated", "forced", "killed"])
async def test_clients_see_all_of_it_through_a_fail_over_or_are_told(
    topology: Topology, how: str, figures: Figures
) -> None:
    if how == "coordinated" and not (isinstance(topology, Watched) and await topology.can_coordinate()):
        pytest.skip("these servers plan no fail-over together")
    async with talking(topology) as talk:
        await talk.more(20)
        primary = await topology.owner(talk.bridge.keys.channel(talk.bridge.shard_of("room:r1"), "room:r1"))
        promotion = asyncio.create_task(promoted_at(topology))
        match how:
            case "planned" | "coordinated":
                await topology.fail_over(primary, how)
            case "forced":
                await topology.fail_over(primary, "FORCE" if topology.kind == "cluster" else how)
            case "killed":
                primary.kill()
                await topology.promoted(primary)
        await talk.more(50)
        moment = await promotion
    after_s = max(traveller.silence_after(moment) for traveller in talk.travellers)
    report(figures, f"{topology.kind} {topology.engine} {how}", talk, after_promotion_s=round(after_s, 3))
    for traveller in talk.travellers:
        assert traveller.holes() == []
        assert traveller.offsets_of_joins_are_followed()
        assert set(traveller.codes) <= {4004}
        assert how not in ("planned", "coordinated") or traveller.codes == []


async def test_clients_see_all_of_it_while_slots_move(cluster: ManyServers, figures: Figures) -> None:
    async with talking(cluster) as talk:
        await talk.more(20)
        for room in ROOMS:
            slot = slot_of(talk.bridge.keys.channel(talk.bridge.shard_of(f"room:{room}"), f"room:{room}"))
            owner = await cluster.slot_owner(slot)
            other = next(server for server in await cluster.primaries() if server is not owner)
            await cluster.move_slot(slot, other)
            await talk.more(10)
    report(figures, f"{cluster.kind} {len(ROOMS)} slots moved", talk)
    for traveller in talk.travellers:
        assert (traveller.holes(), traveller.codes) == ([], [])
