"""One shard's scripts by hand: read, claim, start, retry, settle, bury, cancel."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bridge.client import Bridge
from bridge.effects import Effects
from bridge.errors import Conflict, NoGroup, NotFound
from bridge.shard_stream import Lease, ShardStream
from tests.conformance.fleet import Fleet, do, do_many, ended, take, vanish
from tests.waiting import until

STATE = "chat:{0}:user:u1:"


async def test_reading_delivers_in_the_order_of_acceptance(bridge: Bridge, stream: ShardStream, lease: Lease) -> None:
    receipts = await do_many(bridge, range(5))
    _, entries, _ = await stream.read(lease, "node-x", 3)
    _, rest, _ = await stream.read(lease, "node-x", 3)
    assert [f"0-{raw.id}" for raw in entries + rest] == [receipt.id for receipt in receipts]


async def test_reading_tells_the_servers_time(fleet: Fleet, stream: ShardStream, lease: Lease) -> None:
    before = await fleet.raw.time()
    now, _, _ = await stream.read(lease, "node-x", 1)
    after = await fleet.raw.time()
    assert before[0] + before[1] / 1e6 <= now <= after[0] + after[1] / 1e6


async def test_an_append_rings_a_holder_that_found_nothing(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    heard: list[bytes] = []
    await bridge.subscriptions.subscribe("chat:{0}:ring", heard.append)
    await do(bridge)
    await fleet.raw.spublish("chat:{0}:ring", "by hand")
    await until(lambda: heard)
    assert heard == [b"by hand"]  # nobody noted that it sleeps
    await stream.read(lease, "node-x", 10)
    await do(bridge)
    await until(lambda: len(heard) == 2)


async def test_a_lost_group_is_told(fleet: Fleet, stream: ShardStream, lease: Lease) -> None:
    await fleet.raw.xgroup_destroy("chat:{0}:commands", "chatservers")
    with pytest.raises(NoGroup):
        await stream.read(lease, "node-x", 1)
    with pytest.raises(NoGroup):
        await stream.claim(lease, "node-x")


async def test_claiming_takes_everything_over_page_by_page(bridge: Bridge, stream: ShardStream, lease: Lease) -> None:
    await do_many(bridge, range(250))
    _, read, _ = await stream.read(lease, "node-x", 250)
    await vanish(stream, lease)
    successor = await take(stream, "node-y/boot")
    pages, page = [], "-"
    while page:
        claimed = await stream.claim(successor, "node-y", page)
        page = claimed.next
        pages.append(claimed.entries)
    assert [len(entries) for entries in pages] == [100, 100, 50, 0]
    assert [raw.id for entries in pages for raw in entries] == [raw.id for raw in read]
    assert all(raw.inherited_from == "node-x" for entries in pages for raw in entries)


async def test_claiming_leaves_new_entries_to_reading(bridge: Bridge, stream: ShardStream, lease: Lease) -> None:
    await do(bridge)
    assert (await stream.claim(lease, "node-x")).entries == []
    _, entries, _ = await stream.read(lease, "node-x", 1)
    assert len(entries) == 1


async def test_consumers_of_nodes_that_are_gone_do_not_pile_up(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    await do(bridge)
    _, entries, _ = await stream.read(lease, "node-x", 1)
    await stream.settle(lease, "node-x", [ended(entries[0])])
    await vanish(stream, lease)
    successor = await take(stream, "node-y/boot")
    await stream.claim(successor, "node-y")
    assert not [
        c for c in await fleet.raw.xinfo_consumers("chat:{0}:commands", "chatservers") if c["name"] == b"node-x"
    ]


async def test_starts_and_failures_are_counted_apart(bridge: Bridge, stream: ShardStream, lease: Lease) -> None:
    await do(bridge)
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    await stream.start(lease, entry.id, starts=2)
    assert await stream.retry(lease, entry.id, deaths=1) == 1
    await stream.start(lease, entry.id, starts=2)
    assert await stream.retry(lease, entry.id, deaths=1) == 2
    [claimed] = (await stream.claim(lease, "node-x")).entries
    assert (claimed.starts, claimed.failures) == (1, 2)


async def test_settling_does_everything_at_once(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    receipt = await do(bridge)
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    effects = (
        Effects()
        .set("s", "v").set("t", "v", seconds=60).hset("h", "f", 1).hset("h", "g", 1).hdel("h", "g").hincrby("i", "f", 2)
        .incr("c", 5).zadd("z", "m", 1.5).zadd("z", "gone", 1).zrem("z", "gone").xadd("x", {"f": "v"}, 10)
        .set("index", "v", shared=True).set("gone", "v").delete("gone")
        .publish("told", {"x": 1}).publish("ruled", {}, channel="control").result(a=1)
    )  # fmt: skip
    assert await stream.settle(lease, "node-x", [ended(entry, effects)]) == [1]
    raw = fleet.raw
    assert [await raw.get(STATE + "s"), await raw.get(STATE + "c"), await raw.get("chat:{0}:index")] == [
        b"v",
        b"5",
        b"v",
    ]
    assert 0 < await raw.pttl(STATE + "t") <= 60_000
    assert [await raw.hgetall(STATE + "h"), await raw.hgetall(STATE + "i")] == [{b"f": b"1"}, {b"f": b"2"}]
    assert await raw.zrange(STATE + "z", 0, -1, withscores=True) == [(b"m", 1.5)]
    assert [await raw.xlen(STATE + "x"), await raw.exists(STATE + "gone")] == [1, 0]
    assert await raw.xlen("chat:{0}:channel:user:u1:log") == await raw.xlen("chat:{0}:channel:control:log") == 1
    assert [await raw.xlen("chat:{0}:commands"), await fleet.pending()] == [0, 0]
    outcome = await bridge.outcome(receipt.id)
    assert outcome is not None
    assert (outcome.state, outcome.result) == ("done", {"a": 1})
    [(_, record)] = await raw.xrange("chat:{0}:settled")
    assert (record[b"id"], record[b"state"]) == (receipt.id.encode(), b"done")
    await raw.delete("chat:{0}:index")


async def test_settling_again_changes_nothing(fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease) -> None:
    await do(bridge)
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    batch = [ended(entry, Effects().incr("c"))]
    assert await stream.settle(lease, "node-x", batch) == [1]
    assert await stream.settle(lease, "node-x", batch) == [0]
    assert await fleet.raw.get(STATE + "c") == b"1"
    assert await fleet.raw.xlen("chat:{0}:settled") == 1


async def test_one_entry_named_twice_in_a_batch_is_settled_once(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    await do(bridge)
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    batch = [ended(entry, Effects().incr("c"))] * 2
    assert await stream.settle(lease, "node-x", batch) == [1, 0]
    assert await fleet.raw.get(STATE + "c") == b"1"


async def test_settling_what_nobody_read_changes_nothing(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    await do(bridge)
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    await fleet.raw.xack("chat:{0}:commands", "chatservers", entry.id)
    assert await stream.settle(lease, "node-x", [ended(entry, Effects().incr("c"))]) == [0]
    assert not await fleet.raw.exists(STATE + "c")


async def test_publications_are_numbered_and_kept(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    heard: list[dict[str, Any]] = []
    await bridge.subscriptions.subscribe("chat:{0}:channel:user:u1", lambda m: heard.append(orjson.loads(m)))
    await do(bridge)
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    await stream.settle(lease, "node-x", [ended(entry, Effects().publish("a", {"x": "é"}).publish("b", {}))])
    kept = [orjson.loads(fields[b"p"]) for _, fields in await fleet.raw.xrange("chat:{0}:channel:user:u1:log")]
    assert [(m["offset"], m["type"], m["data"]) for m in kept] == [(1, "a", {"x": "é"}), (2, "b", {})]
    assert {m["channel"] for m in kept} == {"user:u1"}
    assert len({m["epoch"] for m in kept}) == 1
    await until(lambda: len(heard) == 2)
    assert heard == kept


async def test_burying_keeps_the_entry_as_it_came(
    fleet: Fleet, bridge: Bridge, stream: ShardStream, lease: Lease
) -> None:
    entry_id = await fleet.put("odd", b"\x00\xff", "", "empty name", "nl", "a\r\nb:1,")
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    outcome = ended_outcome("0-" + entry_id)
    buried = await stream.bury(
        lease, "node-x", entry.id, f"0-{entry.id}", code="undecodable", message="é", attempts=2, outcome=outcome
    )
    assert buried == (True, 0)
    letter = await bridge.dead.get(f"0-{entry_id}")
    assert letter is not None
    assert letter.fields == (b"odd", b"\x00\xff", b"", b"empty name", b"nl", b"a\r\nb:1,")
    assert (letter.cause_code, letter.cause_message, letter.attempts, letter.node) == ("undecodable", "é", 2, "node-x")
    assert await fleet.pending() == await fleet.raw.xlen("chat:{0}:commands") == 0


def ended_outcome(id: str) -> bytes:
    record = {
        "id": id, "type": "", "subject": "", "payload": None, "reason": None, "issued_by": "", "issued_at": 0,
        "expires_at": None, "idempotency_key": None, "origin": None, "node": None, "attempts": 1,
        "timeline": [["dead", 1, None]], "state": "dead", "result": None, "error": None,
    }  # fmt: skip
    return orjson.dumps(record)


async def test_burying_twice_makes_one_letter(fleet: Fleet, stream: ShardStream, lease: Lease) -> None:
    await fleet.put("x", "y")
    _, [entry], _ = await stream.read(lease, "node-x", 1)
    for expected in (True, False):
        buried, _ = await stream.bury(
            lease, "node-x", entry.id, "0-1-1", code="undecodable", message="", attempts=0, outcome=b"{}"
        )
        assert buried == expected
    assert await fleet.raw.xlen("chat:{0}:dead") == 1


async def test_dead_letters_are_bounded_and_say_what_made_room(fleet: Fleet) -> None:
    fleet.by_hand = True
    bridge = await fleet.bridge(dead_length=10)
    stream = bridge.streams[0]
    lease = await take(stream)
    for _ in range(12):
        await fleet.put("x", "y")
    _, entries, _ = await stream.read(lease, "node-x", 12)
    dropped = [
        (await stream.bury(lease, "n", e.id, f"0-{e.id}", code="undecodable", message="", attempts=0, outcome=b"{}"))[1]
        for e in entries
    ]
    assert dropped == [0] * 10 + [1, 1]
    assert await fleet.raw.xlen("chat:{0}:dead") == 10


async def test_a_command_that_nobody_read_can_be_cancelled(fleet: Fleet, bridge: Bridge) -> None:
    receipt = await do(bridge)
    outcome = await bridge.cancel(receipt.id, by="operator")
    assert (outcome.state, outcome.result) == ("cancelled", {"cancelled_by": "operator"})
    assert await fleet.raw.xlen("chat:{0}:commands") == 0
    [(_, record)] = await fleet.raw.xrange("chat:{0}:settled")
    assert record[b"state"] == b"cancelled"


async def test_a_command_that_was_read_cannot_be_cancelled(bridge: Bridge, stream: ShardStream, lease: Lease) -> None:
    receipt = await do(bridge)
    await stream.read(lease, "node-x", 1)
    with pytest.raises(Conflict, match="being handled"):
        await bridge.cancel(receipt.id, by="operator")


async def test_a_command_that_ended_cannot_be_cancelled(bridge: Bridge) -> None:
    receipt = await do(bridge)
    await bridge.cancel(receipt.id, by="operator")
    with pytest.raises(Conflict, match="has ended"):
        await bridge.cancel(receipt.id, by="operator")


@pytest.mark.parametrize("id", ["0-1-1", "9-1-1"])
async def test_cancelling_a_command_that_never_was_is_not_found(bridge: Bridge, id: str) -> None:
    with pytest.raises(NotFound):
        await bridge.cancel(id, by="operator")
