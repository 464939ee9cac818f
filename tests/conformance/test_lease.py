"""Leases and the fence: who may read and settle a shard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from bridge.client import Bridge
from bridge.errors import Fenced
from bridge.shard_stream import Lease, Occupied, ShardStream
from tests.conformance.fleet import Fleet, do, ended, take
from tests.waiting import until

Call = Callable[[ShardStream, Lease], Awaitable[object]]
FENCED: dict[str, Call] = {
    "read": lambda stream, lease: stream.read(lease, "node-x", 1),
    "claim": lambda stream, lease: stream.claim(lease, "node-x"),
    "renew": lambda stream, lease: stream.renew(lease),
    "start": lambda stream, lease: stream.start(lease, "1-1", starts=2),
    "retry": lambda stream, lease: stream.retry(lease, "1-1", deaths=0),
    "settle": lambda stream, lease: stream.settle(lease, "node-x", []),
    "bury": lambda stream, lease: stream.bury(
        lease, "node-x", "1-1", "0-1-1", code="timed_out", message="", attempts=1, outcome=b"{}"
    ),
}
each_fenced_call = pytest.mark.parametrize("call", FENCED.values(), ids=FENCED.keys())


async def test_a_held_shard_is_nobody_elses(stream: ShardStream, lease: Lease) -> None:
    answer = await stream.acquire("node-y/boot")
    assert isinstance(answer, Occupied)


async def test_its_holder_gets_a_shard_again_under_a_new_epoch(stream: ShardStream, lease: Lease) -> None:
    again = await take(stream)
    assert again.epoch > lease.epoch
    assert again.token != lease.token


async def test_another_boot_of_the_same_name_is_another_holder(stream: ShardStream, lease: Lease) -> None:
    assert isinstance(await stream.acquire("node-x/boot2"), Occupied)


async def test_a_name_that_begins_like_the_holders_is_another_holder(stream: ShardStream, lease: Lease) -> None:
    assert isinstance(await stream.acquire("node-x/bo"), Occupied)


async def test_a_lease_runs_out(fleet: Fleet) -> None:
    fleet.by_hand = True
    stream = (await fleet.bridge(lease_seconds=0.5)).streams[0]
    lease = await take(stream)
    assert await fleet.raw.pttl("chat:{0}:lease") in (-2, *range(501))  # gone already, or about to be
    taken = await until(lambda: _lease_or_none(stream, "node-y/boot"))
    assert taken.epoch > lease.epoch


async def _lease_or_none(stream: ShardStream, owner: str) -> Lease | None:
    answer = await stream.acquire(owner)
    return answer if isinstance(answer, Lease) else None


async def test_renewal_extends_a_lease(fleet: Fleet, stream: ShardStream, lease: Lease) -> None:
    await fleet.raw.pexpire("chat:{0}:lease", 20)
    await stream.renew(lease)
    assert await fleet.raw.pttl("chat:{0}:lease") > 20_000


async def test_a_released_shard_is_free_at_once(stream: ShardStream, lease: Lease) -> None:
    await stream.release(lease)
    assert await stream.holder() is None


@each_fenced_call
async def test_a_call_that_was_under_way_when_the_lease_was_given_up_is_fenced(
    stream: ShardStream, lease: Lease, call: Call
) -> None:
    await stream.release(lease)
    with pytest.raises(Fenced):
        await call(stream, lease)
    assert await stream.holder() is None


async def test_releasing_what_another_holds_changes_nothing(stream: ShardStream, lease: Lease) -> None:
    await stream.release(lease)
    other = await take(stream, "node-y/boot")
    await stream.release(lease)
    assert await stream.holder() == other.token


@each_fenced_call
async def test_who_lost_the_lease_is_fenced(stream: ShardStream, lease: Lease, call: Call) -> None:
    await stream.release(lease)
    await take(stream, "node-y/boot")
    with pytest.raises(Fenced):
        await call(stream, lease)


@each_fenced_call
async def test_an_earlier_epoch_of_ones_own_is_fenced(stream: ShardStream, lease: Lease, call: Call) -> None:
    await take(stream)
    with pytest.raises(Fenced):
        await call(stream, lease)


@each_fenced_call
async def test_a_lease_that_was_taken_and_given_back_meanwhile_is_fenced(
    stream: ShardStream, lease: Lease, call: Call
) -> None:
    await stream.release(lease)
    await stream.release(await take(stream, "node-y/boot"))
    with pytest.raises(Fenced):
        await call(stream, lease)


async def test_an_epoch_that_was_lost_begins_above_all_it_ever_gave(
    fleet: Fleet, stream: ShardStream, lease: Lease
) -> None:
    await stream.release(lease)
    await fleet.raw.delete("chat:{0}:epoch")
    assert (await take(stream)).epoch > lease.epoch


async def test_a_late_settle_of_a_fenced_holder_changes_nothing(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    await do(bridge)
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    await stream.release(lease)
    await take(stream, "node-y/boot")
    with pytest.raises(Fenced):
        await stream.settle(lease, "node-x", [ended(entry)])
    assert await fleet.pending() == 1
    assert not await fleet.raw.exists("chat:{0}:settled")
