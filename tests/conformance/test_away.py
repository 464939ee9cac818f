"""A node one of whose servers is away goes on with the shards of the other."""

from __future__ import annotations

from itertools import count

import pytest

from bridge.client import Bridge
from bridge.shards import shard_of
from bridge.telemetry import Acquired, Settled
from tests.conformance.fleet import Desk, Fleet, Gate, do, take, vanish
from tests.proxy import Proxy
from tests.recorder import Recorder
from tests.waiting import until

NEAR, FAR = 0, 1  # shards


def user(shard: int, nth: int = 0) -> str:
    """A subject of a shard."""
    subjects = (f"user:u{i}" for i in count())
    own = (subject for subject in subjects if shard_of(subject, 2) == shard)
    return next(subject for n, subject in enumerate(own) if n == nth)


@pytest.fixture
async def there(fleet: Fleet) -> Bridge:
    """A publisher that nothing holds up."""
    return await fleet.bridge(shards=2, lease_seconds=60)


async def halved(fleet: Fleet, proxy: Proxy, *, timeout: float = 0.5, max_in_flight: int = 100) -> Bridge:
    """A bridge with one shard on a server of its own, which is behind ``proxy``."""
    near = await fleet.bridge(shards=2, max_in_flight=max_in_flight)
    far = await fleet.bridge(proxy.url, shards=2, timeout=timeout)
    near.streams = [near.streams[NEAR], far.streams[FAR]]
    return near


async def test_results_of_a_server_that_is_away_take_no_room(
    proxy: Proxy, fleet: Fleet, desk: Desk, events: Recorder, there: Bridge
) -> None:
    """As many as may be in flight wait for their settle there, and its lease is not lost."""
    desk.handle = gate = Gate()
    fleet.serve(await halved(fleet, proxy, max_in_flight=2))
    waiting = [await do(there, nth, user(FAR, nth)) for nth in range(2)]
    await until(lambda: len(gate.entered) == 2)
    proxy.black_hole()
    gate.open()
    receipt = await do(there, 2, user(NEAR))
    await events.wait_for(Settled, id=receipt.id)
    assert not await fleet.log(user(FAR), FAR)
    proxy.heal()
    for nth, each in enumerate(waiting):
        await there.outcome(each.id, wait=10)
        assert await fleet.log(user(FAR, nth), FAR) == [nth]


async def test_a_node_gives_signs_of_life_while_a_server_keeps_its_look_at_shards_waiting(
    proxy: Proxy, fleet: Fleet, events: Recorder
) -> None:
    bridge = await halved(fleet, proxy, timeout=60)
    proxy.black_hole()
    fleet.serve(bridge)
    await events.wait_for(Acquired, shard=NEAR)

    async def beat() -> float:
        return await fleet.raw.zscore(bridge.keys.live, "node-a") or 0.0

    async def has_beaten() -> bool:
        return await beat() > last

    for _ in range(3):
        last = await beat()
        await until(has_beaten)
    proxy.heal()


async def test_a_suspect_does_not_wait_for_results_of_a_server_that_is_away(
    proxy: Proxy, fleet: Fleet, desk: Desk, events: Recorder, there: Bridge
) -> None:
    """They do not run, so it cannot kill them; and nothing waits behind the suspect."""
    suspect = await do(there, 1, user(NEAR))
    stream = there.streams[NEAR]
    lease = await take(stream)
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    desk.handle = gate = Gate()
    fleet.serve(await halved(fleet, proxy))
    waiting = await do(there, 2, user(FAR))
    await until(lambda: gate.entered)
    proxy.black_hole()
    gate.open()
    await vanish(stream, lease, entry.id)
    await events.wait_for(Settled, id=suspect.id)
    receipt = await do(there, 3, user(NEAR))
    await events.wait_for(Settled, id=receipt.id)
    proxy.heal()
    await there.outcome(waiting.id, wait=10)
    assert await fleet.log(user(FAR), FAR) == [2]


async def test_shards_are_begun_while_a_server_that_is_away_does_not_answer(
    proxy: Proxy, fleet: Fleet, events: Recorder, there: Bridge
) -> None:
    bridge = await halved(fleet, proxy, timeout=30)
    proxy.black_hole()
    fleet.serve(bridge)
    receipt = await do(there, 1, user(NEAR))
    await events.wait_for(Settled, id=receipt.id)
    assert events.all(Acquired, shard=FAR) == []
    proxy.heal()
    await events.wait_for(Acquired, shard=FAR)
