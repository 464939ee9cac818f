"""What a holder keeps in memory over an error, and what it must not."""

from __future__ import annotations

import asyncio

import pytest

from bridge.effects import Effects
from bridge.envelope import Command
from bridge.errors import Retry
from bridge.telemetry import LostLease, Settled, Started
from tests.conformance.fleet import Desk, Do, Fleet, Gate, do, note, take, vanish
from tests.proxy import Proxy
from tests.recorder import Recorder
from tests.waiting import answered, until

BALANCE, COPY = "chat:{0}:user:u1:balance", "chat:{0}:user:u1:copy"


async def test_what_was_read_before_a_fail_over_settles_after_no_number_of_errors(
    own_fleet: Fleet, desk: Desk, events: Recorder
) -> None:
    """The entry is pending on the new server too, but what a handler has read may be lost: it is handled again."""
    read: list[object] = []
    gate = asyncio.Event()

    async def copy(command: Command[Do]) -> Effects:
        found = await command.read("balance")
        read.append(found)
        await gate.wait()
        return Effects().set("copy", found)

    desk.handle = copy
    await own_fleet.raw.set(BALANCE, "lost")
    await do(await own_fleet.node())
    await until(lambda: read == ["lost"])
    await own_fleet.server.restart()
    await answered(lambda: own_fleet.raw.set(BALANCE, "kept"))
    await events.wait_for(LostLease, regained=True)
    recoveries = len(events.all(LostLease))
    await own_fleet.raw.set("chat:{0}:incarnation", "0" * 40)  # voids the lease, and the server stays the same
    await events.wait_for_many(recoveries + 1, LostLease)
    gate.set()
    await events.wait_for(Settled)
    assert await own_fleet.raw.get(COPY) == b"kept"
    assert read == ["lost", "kept"]


@pytest.mark.parametrize("ends", ["meanwhile", "later"])
async def test_what_another_holder_recorded_goes_with_the_entry(
    proxy: Proxy, fleet: Fleet, desk: Desk, ends: str
) -> None:
    """A node is cut off, another one takes its shard, begins the command and dies; then the first is back."""
    desk.handle = gate = Gate()
    await lend(proxy, fleet, gate if ends == "meanwhile" else None)
    gate.open()
    await fleet.events.wait_for(Settled, state="done")
    assert not await fleet.raw.exists("chat:{0}:starts")


@pytest.mark.parametrize("deaths_before", [0, 1])
async def test_deaths_at_another_holder_count_and_its_own_life_does_not(
    proxy: Proxy, fleet: Fleet, desk: Desk, events: Recorder, deaths_before: int
) -> None:
    first = deaths_before + 1

    async def fail_once(command: Command[Do]) -> Effects:
        if command.attempt == first:
            raise Retry(0.01)
        return await note(command)

    desk.handle = gate = Gate(fail_once)
    await lend(proxy, fleet, deaths_before=deaths_before)
    gate.open()
    await events.wait_for(Settled, state="done")
    assert [started.attempt for started in events.all(Started)] == [first, first + 2]


async def lend(proxy: Proxy, fleet: Fleet, ends_meanwhile: Gate | None = None, *, deaths_before: int = 0) -> None:
    """Let a node begin a command, and regain it after a holder that died with it."""
    there = await fleet.bridge()
    await do(there)
    for _ in range(deaths_before):
        lease = await take(there.streams[0])
        _, [read], _ = await there.streams[0].read(lease, "node-w", 1)
        await vanish(there.streams[0], lease, read.id, presumed=0)
    await fleet.node(url=proxy.url, timeout=0.5)
    await fleet.events.wait_for(Started)
    proxy.black_hole()
    if ends_meanwhile is not None:
        ends_meanwhile.open()
    await fleet.raw.delete("chat:{0}:lease")
    stream = there.streams[0]
    lease = await take(stream)
    [claimed] = (await stream.claim(lease, "node-x")).entries
    await vanish(stream, lease, claimed.id, presumed=1 if claimed.starts is None else claimed.starts)
    proxy.heal()
    await fleet.events.wait_for(LostLease, regained=True)
