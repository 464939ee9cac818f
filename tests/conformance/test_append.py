"""Accepting commands: ids, idempotency, and what is refused with nothing written."""

from __future__ import annotations

import asyncio

import pytest

from bridge.client import Bridge
from bridge.errors import IdempotencyMismatch, Invalid, InvalidPayload, Overloaded, TooLarge, UnknownType
from bridge.registry import Registry
from bridge.shard_stream import ShardStream
from tests.conformance.fleet import Fleet, do, do_many, take


async def test_a_command_is_on_its_stream_once_accepted(fleet: Fleet, bridge: Bridge) -> None:
    receipt = await do(bridge, 3, reason="because")
    [(entry_id, fields)] = await fleet.raw.xrange("chat:{0}:commands")
    assert receipt.id == f"0-{entry_id.decode()}"
    assert fields[b"v"] == b"1"
    assert (fields[b"type"], fields[b"subject"], fields[b"payload"]) == (b"desk.do", b"user:u1", b'{"n":3}')
    assert (fields[b"by"], fields[b"reason"], fields[b"idem"]) == (
        b"tester",
        b"because",
        receipt.idempotency_key.encode(),
    )


async def test_ids_ascend_in_the_order_of_acceptance(bridge: Bridge) -> None:
    ids = [receipt.id for receipt in await do_many(bridge, range(50))]
    assert sorted(ids, key=lambda id: tuple(map(int, id.split("-")))) == ids


async def test_ids_ascend_while_the_servers_clock_is_behind(fleet: Fleet, bridge: Bridge) -> None:
    seconds, _ = await fleet.raw.time()
    ahead = (seconds + 3600) * 1000
    await fleet.raw.xadd("chat:{0}:commands", {"x": "y"}, id=f"{ahead}-5")
    await fleet.raw.xdel("chat:{0}:commands", f"{ahead}-5")
    _, ms, sequence = (await do(bridge)).id.split("-")
    assert int(ms) == ahead
    assert int(sequence) > 5


async def test_a_full_millisecond_continues_in_the_next(fleet: Fleet, bridge: Bridge) -> None:
    seconds, _ = await fleet.raw.time()
    ahead = (seconds + 3600) * 1000
    await fleet.raw.xadd("chat:{0}:commands", {"x": "y"}, id=f"{ahead}-{2**52}")
    _, ms, sequence = (await do(bridge)).id.split("-")
    assert int(ms) == ahead + 1
    assert int(sequence) <= 2**32
    await fleet.raw.delete("chat:{0}:commands")


async def test_the_same_key_again_gets_the_earlier_command(fleet: Fleet, bridge: Bridge) -> None:
    first = await do(bridge, idempotency_key="k")
    again = await do(bridge, idempotency_key="k")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again.id == first.id
    assert await fleet.raw.xlen("chat:{0}:commands") == 1


async def test_a_hundred_racing_publishes_with_one_key_are_one_command(fleet: Fleet) -> None:
    bridges = [await fleet.bridge() for _ in range(4)]
    receipts = await asyncio.gather(*(do(bridges[i % 4], idempotency_key="k") for i in range(100)))
    assert len({receipt.id for receipt in receipts}) == 1
    assert [receipt.duplicate for receipt in receipts].count(False) == 1
    assert await fleet.raw.xlen("chat:{0}:commands") == 1


@pytest.mark.parametrize("changed", [{"n": 2}, {"reason": "another"}, {"expires_in": 60}])
async def test_the_same_key_with_another_body_is_refused(bridge: Bridge, changed: dict[str, object]) -> None:
    first = await do(bridge, idempotency_key="k")
    with pytest.raises(IdempotencyMismatch) as caught:
        await do(bridge, idempotency_key="k", **changed)  # type: ignore[arg-type]
    assert caught.value.id == first.id


async def test_the_order_of_a_payloads_fields_makes_no_other_body(bridge: Bridge) -> None:
    receipts = [
        await bridge.publish("desk.do", "user:u1", payload, by="tester", idempotency_key="k")
        for payload in ({"n": 1, "data": 2}, {"data": 2, "n": 1})
    ]
    assert receipts[1].duplicate


async def test_a_key_is_forgotten_with_the_outcome(fleet: Fleet, bridge: Bridge) -> None:
    await do(bridge, idempotency_key="k")
    [key] = await fleet.raw.keys("chat:{0}:idem:*")
    assert 3590 < await fleet.raw.ttl(key) <= 3600


async def test_a_key_used_again_lives_on(fleet: Fleet, bridge: Bridge) -> None:
    await do(bridge, idempotency_key="k")
    [key] = await fleet.raw.keys("chat:{0}:idem:*")
    await fleet.raw.expire(key, 5)
    await do(bridge, idempotency_key="k")
    assert await fleet.raw.ttl(key) > 3590


async def test_a_backlog_at_its_limit_refuses_and_writes_nothing(fleet: Fleet) -> None:
    bridge = await fleet.bridge(backlog_limit=3)
    await do_many(bridge, range(3))
    keys = await fleet.raw.dbsize()
    with pytest.raises(Overloaded) as caught:
        await do(bridge)
    assert (caught.value.backlog, caught.value.limit) == (3, 3)
    assert await fleet.raw.dbsize() == keys
    assert await fleet.raw.xlen("chat:{0}:commands") == 3


async def test_a_known_key_is_answered_whatever_the_backlog(fleet: Fleet) -> None:
    bridge = await fleet.bridge(backlog_limit=1)
    first = await do(bridge, idempotency_key="k")
    assert (await do(bridge, idempotency_key="k")).id == first.id


async def test_what_is_pending_counts_towards_the_backlog(fleet: Fleet, stream: ShardStream) -> None:
    bridge = await fleet.bridge(backlog_limit=2)
    await do_many(bridge, [1, 2])
    await stream.read(await take(stream), "node-x", 10)
    with pytest.raises(Overloaded):
        await do(bridge)


async def test_the_expiry_is_counted_on_the_servers_clock(fleet: Fleet, bridge: Bridge) -> None:
    await do(bridge, expires_in=60)
    [(entry_id, fields)] = await fleet.raw.xrange("chat:{0}:commands")
    assert int(fields[b"expires"]) == int(entry_id.split(b"-")[0]) + 60_000


@pytest.mark.parametrize(
    ("arguments", "error", "path"),
    [
        ({"type": "desk.other"}, UnknownType, "/type"),
        ({"subject": "room:lobby"}, Invalid, "/subject"),
        ({"subject": "user:a b"}, Invalid, "/subject"),
        ({"payload": {"n": "many"}}, InvalidPayload, "/n"),
        ({"payload": {"more": 1}}, InvalidPayload, "/more"),
        ({"payload": {"data": "x" * 70_000}}, TooLarge, ""),
        ({"payload": {"data": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}}, Invalid, "/payload"),
        ({"payload": {"data": "\ud800"}}, Invalid, "/payload"),
        ({"payload": {"data": object()}}, Invalid, "/payload"),
        ({"idempotency_key": ""}, Invalid, ":Idempotency-Key"),
        ({"idempotency_key": "a b"}, Invalid, ":Idempotency-Key"),
        ({"idempotency_key": "x" * 201}, Invalid, ":Idempotency-Key"),
        ({"reason": "x" * 501}, Invalid, "/reason"),
        ({"reason": "\ud800"}, Invalid, "/reason"),
        ({"expires_in": 0.5}, Invalid, "/expires_in"),
        ({"expires_in": 604_801}, Invalid, "/expires_in"),
        ({"expires_in": float("nan")}, Invalid, "/expires_in"),
        ({"by": ""}, Invalid, "/by"),
        ({"by": "x" * 101}, Invalid, "/by"),
        ({"by": "\ud800"}, Invalid, "/by"),
    ],
)
async def test_what_is_not_acceptable_is_refused_with_its_path(
    fleet: Fleet, bridge: Bridge, arguments: dict[str, object], error: type[Invalid], path: str
) -> None:
    good: dict[str, object] = {"type": "desk.do", "subject": "user:u1", "payload": {}, "by": "tester"}
    with pytest.raises(error) as caught:
        await bridge.publish(**{**good, **arguments})  # type: ignore[arg-type]
    assert caught.value.path == path
    assert not await fleet.raw.exists("chat:{0}:commands")


async def test_a_type_that_a_live_node_lacks_is_refused_naming_it(fleet: Fleet, bridge: Bridge) -> None:
    await fleet.node("node-old", registry=Registry(), lease_seconds=10)
    with pytest.raises(UnknownType) as caught:
        await do(bridge)
    assert caught.value.nodes == ("node-old",)
