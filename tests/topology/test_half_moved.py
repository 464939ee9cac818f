"""A shard whose keys are under way to another primary: every script is refused before its first write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio

from bridge.channels import Channel
from bridge.client import Bridge
from bridge.effects import Effects
from bridge.envelope import Envelope
from bridge.errors import Fenced, NotTaken
from bridge.shard_stream import Ended, Lease, ShardStream
from bridge.shards import shard_of
from bridge.topology import slot_of
from tests.faults.ledger import registry
from tests.servers import Server
from tests.topologies import ManyServers, ask

SHARDS, SHARD, NODE = 12, 3, "node-a"
SETTINGS: dict[str, Any] = {"shards": SHARDS, "lease_seconds": 60, "timeout": 5.0}  # nothing runs out meanwhile
SOON_S = 0.2  # until a call that nobody takes is given up
ROOM = next(f"room:r{i}" for i in range(100) if shard_of(f"room:r{i}", SHARDS) == SHARD)
FIELDS = [b"v", b"1", b"type", b"ledger.add", b"subject", ROOM.encode(), b"payload", b'{"n":1}', b"by", b"test"]
FIELDS += [b"at", b"1795301838720"]
Call = Callable[[Bridge, ShardStream, Lease, str], Awaitable[object]]


def envelope(entry: str) -> Envelope:
    return Envelope(f"{SHARD}-{entry}", entry, SHARD, "ledger.add", ROOM, b'{"n":1}', "test", 1)


def settle(_bridge: Bridge, stream: ShardStream, lease: Lease, entry: str) -> Awaitable[object]:
    effects = Effects().set("new", 1).publish("note", {"n": 1})
    return stream.settle(lease, NODE, [Ended(envelope(entry), "done", 1, False, b"[]", 1, effects)])


CALLS: dict[str, Call] = {
    "append": lambda _b, s, _l, _e: s.append(FIELDS, caller="c", subject=ROOM, key="new", body="b", expires_in=None),
    "schedule": lambda _b, s, _l, _e: s.schedule(
        FIELDS, caller="c", subject=ROOM, key="new", body="b", expires_in=None, due=4e9
    ),
    "cancel": lambda _b, s, _l, e: s.cancel(f"{SHARD}-{e}", b"{}"),
    "acquire": lambda _b, s, _l, _e: s.acquire("node-b/boot"),
    "renew": lambda _b, s, lease, _e: s.renew(lease),
    "release": lambda _b, s, lease, e: s.release(lease, {e: 0}),
    "read": lambda _b, s, lease, _e: s.read(lease, NODE, 10),
    "promote": lambda _b, s, lease, _e: s.promote(lease),
    "claim": lambda _b, s, lease, _e: s.claim(lease, "node-b"),
    "start": lambda _b, s, lease, e: s.start(lease, e, starts=1),
    "retry": lambda _b, s, lease, e: s.retry(lease, e, deaths=0),
    "settle": settle,
    "bury": lambda _b, s, lease, e: s.bury(
        lease, NODE, e, f"{SHARD}-{e}", code="undecodable", message="m", attempts=1, outcome=b"{}"
    ),
    "broadcast": lambda b, _s, _l, _e: b.channels.publish(Channel(SHARD, "control"), "note", {"n": 1}),
}


# What a script does with keys that do not exist yet shows while nothing has moved; what it does beside its keys
# shows when these have stayed and those have gone.
MOVED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "none": lambda _: [],
    "some": lambda keys: keys[::2],
    "others": lambda keys: keys[1::2],
}


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("moved", MOVED)
async def test_a_script_does_all_or_nothing_while_its_shard_moves(cluster: ManyServers, moved: str) -> None:
    async with Bridge.connect(cluster.url, registry=registry, **SETTINGS) as bridge:
        stream, slot = bridge.streams[SHARD], slot_of(bridge.keys.commands(SHARD))
        lease, entry = await busy_shard(bridge)
        source = await cluster.slot_owner(slot)
        to = next(server for server in await cluster.primaries() if server is not source)
        await cluster.begin_move(slot, source, to)
        keys = MOVED[moved](sorted(await ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1000)))
        if keys:
            await ask(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
        refused, patience = [], bridge.redis.timeout
        bridge.redis.timeout = SOON_S
        try:
            for name, call in CALLS.items():
                before = await contents(slot, source, to)
                try:
                    await call(bridge, stream, lease, entry)
                except (NotTaken, Fenced):
                    assert await contents(slot, source, to) == before, name
                    refused.append(name)
        finally:
            await cluster.finish_move(slot, source, to)
        assert {"append", "schedule", "settle", "bury"} <= set(refused)
        bridge.redis.timeout = patience
        receipt = await bridge.publish("ledger.add", ROOM, {"n": 2}, by="test")
        assert await bridge.outcome(receipt.id) is not None


async def busy_shard(bridge: Bridge) -> tuple[Lease, str]:
    """With something of everything; its lease, and an entry that is pending."""
    stream = bridge.streams[SHARD]
    lease = await stream.acquire(f"{NODE}/boot")
    assert isinstance(lease, Lease)
    for key, due in (("k1", None), ("k2", None), ("k3", 1.0)):
        if due is None:
            await stream.append(FIELDS, caller="c", subject=ROOM, key=key, body="b", expires_in=None)
        else:
            await stream.schedule(FIELDS, caller="c", subject=ROOM, key=key, body="b", expires_in=None, due=due)
    _, entries, _ = await stream.read(lease, NODE, 1)
    await stream.start(lease, entries[0].id, starts=1)
    await bridge.channels.publish(Channel(SHARD, "control"), "note", {"n": 0})
    return lease, entries[0].id


async def contents(slot: int, *servers: Server) -> dict[bytes, bytes]:
    """Every key of the slot, as it is."""
    found: dict[bytes, bytes] = {}
    for server in servers:
        async with redis.asyncio.Redis.from_url(server.url, single_connection_client=True) as client:
            for key in await client.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000):
                await client.execute_command("ASKING")
                found[key] = await client.execute_command("DUMP", key)
    return found


@pytest.mark.usefixtures("steady")
async def test_a_process_starts_while_a_shard_moves(cluster: ManyServers) -> None:
    async with Bridge.connect(cluster.url, registry=registry, **SETTINGS) as bridge:
        await busy_shard(bridge)
        slot = slot_of(bridge.keys.commands(SHARD))
    source = await cluster.slot_owner(slot)
    to = next(server for server in await cluster.primaries() if server is not source)
    await cluster.begin_move(slot, source, to)
    await ask(source, "MIGRATE", "127.0.0.1", to.port, bridge.keys.commands(SHARD), 0, 5000)
    settings = {**SETTINGS, "timeout": 1.5}  # it waits that long for the shard
    try:
        async with Bridge.connect(cluster.url, registry=registry, **settings) as bridge:
            other = next(f"room:r{i}" for i in range(100) if shard_of(f"room:r{i}", SHARDS) != SHARD)
            assert (await bridge.publish("ledger.add", other, {"n": 1}, by="test")).id
    finally:
        await cluster.finish_move(slot, source, to)
