"""Servers that a bridge does not start on, and what it finds wrong with them while it runs."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge import scripts, survey
from bridge.client import Bridge
from bridge.errors import Misconfigured
from bridge.telemetry import FaultCleared, FaultFound
from tests.conformance.fleet import Fleet
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import until

ROOT = Path(__file__).parents[2]


async def found(bridge: Bridge) -> list[tuple[str, str]]:
    """What the self-check finds now."""
    await bridge.self_check.step()
    return [(finding.severity, finding.code) for finding in bridge.self_check.findings]


@pytest.mark.parametrize(
    ("setting", "bad", "well", "severity", "code"),
    [
        ("maxmemory-policy", "allkeys-lru", "noeviction", "refuse", "evicts"),
        ("appendonly", "no", "yes", "refuse", "volatile"),
        ("appendfsync", "no", "always", "warn", "appendfsync_no"),
        ("client-output-buffer-limit", "pubsub 32mb 4mb 60", "pubsub 32mb 8mb 60", "warn", "pubsub_buffer"),
        ("client-output-buffer-limit", "pubsub 4mb 0 0", "pubsub 0 0 0", "warn", "pubsub_buffer"),
        ("min-replicas-to-write", "1", "0", "warn", "min_replicas"),
    ],
)
async def test_what_goes_wrong_with_a_running_server_is_found_and_cleared(
    own_fleet: Fleet, events: Recorder, setting: str, bad: str, well: str, severity: str, code: str
) -> None:
    bridge = await own_fleet.bridge()
    assert await found(bridge) == []
    await own_fleet.raw.config_set(setting, bad)
    assert await found(bridge) == [(severity, code)]
    assert await found(bridge) == [(severity, code)]
    assert not bridge.self_check.ok
    await own_fleet.raw.config_set(setting, well)
    assert await found(bridge) == []
    assert bridge.self_check.ok
    [appeared] = events.all(FaultFound)  # on change only
    assert (appeared.severity, appeared.code) == (severity, code)
    assert appeared.message
    assert appeared.remedy
    [cleared] = events.all(FaultCleared)
    assert (cleared.severity, cleared.code, cleared.server) == (severity, code, appeared.server)


async def test_a_refusal_names_every_fault_with_its_remedy(own_fleet: Fleet) -> None:
    await own_fleet.raw.config_set("maxmemory-policy", "volatile-lru")
    await own_fleet.raw.config_set("appendonly", "no")
    await own_fleet.raw.execute_command("ACL", "SETUSER", "weak", "on", ">secret", "~*", "&*", "+@all", "-xinfo")
    with pytest.raises(Misconfigured) as refused:
        await own_fleet.bridge(own_fleet.server.url.replace("unix://", "unix://weak:secret@"))
    text = str(refused.value)
    assert len(text.splitlines()) == 3
    for remedy in ("set it to noeviction", "set appendonly yes", "ACL SETUSER"):
        assert remedy in text


async def test_what_is_wrong_at_the_start_is_told_as_well(own_fleet: Fleet, events: Recorder) -> None:
    await own_fleet.raw.config_set("appendfsync", "no")
    bridge = await own_fleet.bridge()
    assert [finding.code for finding in bridge.self_check.findings] == ["appendfsync_no"]
    assert events.all(FaultFound, code="appendfsync_no")


async def test_a_replica_is_refused_and_noticed_where_a_primary_becomes_one(
    start_server: Callable[..., Server], engine: str
) -> None:
    primary, other = start_server(engine, tcp=True), start_server(engine, tcp=True)
    async with Bridge.connect(other.url, shards=1) as bridge:
        await other.client().execute_command("REPLICAOF", "127.0.0.1", primary.port)  # type: ignore[no-untyped-call]
        assert ("refuse", "not_primary") in await found(bridge)
    with pytest.raises(Misconfigured, match=r"127\.0\.0\.1.*this is a replica"):
        async with Bridge.connect(other.url, shards=1):
            pass


async def test_a_replica_of_a_plain_server_asks_for_a_journal(start_server: Callable[..., Server], engine: str) -> None:
    primary, other = start_server(engine, tcp=True), start_server(engine, tcp=True)
    async with Bridge.connect(primary.url, shards=1) as bridge:
        assert await found(bridge) == []
        await other.client().execute_command("REPLICAOF", "127.0.0.1", primary.port)  # type: ignore[no-untyped-call]

        async def lacks_a_journal() -> bool:
            return await found(bridge) == [("warn", "no_journal")]

        await until(lacks_a_journal)


@pytest.mark.parametrize("command", ["spublish", "xclaim", "evalsha", "ssubscribe"])
async def test_a_server_that_forbids_what_is_needed_is_refused_by_name(
    start_server: Callable[..., Server], engine: str, command: str
) -> None:
    server = start_server(engine)
    client: Any = server.client()
    await client.execute_command("ACL", "SETUSER", "weak", "on", ">secret", "~*", "&*", "+@all", f"-{command}")
    with pytest.raises(Misconfigured, match=command.upper()):
        async with Bridge.connect(server.url.replace("unix://", "unix://weak:secret@"), shards=1):
            pass


async def test_other_keys_and_channels_than_ours_may_be_forbidden(
    start_server: Callable[..., Server], engine: str
) -> None:
    server = start_server(engine)
    client: Any = server.client()
    await client.execute_command("ACL", "SETUSER", "own", "on", ">secret", "~chat:*", "&chat:*", "+@all")
    async with Bridge.connect(server.url.replace("unix://", "unix://own:secret@"), shards=1) as bridge:
        assert await found(bridge) == []
    with pytest.raises(Misconfigured, match="XADD"):
        async with Bridge.connect(server.url.replace("unix://", "unix://own:secret@"), shards=1, namespace="other"):
            pass


def test_every_command_of_a_script_is_asked_for() -> None:
    sources = [*Path(scripts.__file__).parent.glob("*.lua"), *(ROOT / "chatserver" / "scripts").glob("*.lua")]
    told = re.findall(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?", "".join(path.read_text() for path in sources))
    nested = {"XGROUP", "XINFO"}
    used = {f"{name} {second}" if name in nested else name for name, second in told}
    asked = {survey._name(call) for call in survey._CALLS}
    assert used - asked == set()


@pytest.mark.parametrize(("off_s", "severity"), [(5, "warn"), (-40, "refuse")])
async def test_a_clock_that_is_off_is_found(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, off_s: float, severity: str
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + off_s)
    assert await found(bridge) == [(severity, "clock_skew")]
    [finding] = bridge.self_check.findings
    assert f"{off_s:+}" in finding.message
    monkeypatch.undo()
    assert await found(bridge) == []


async def test_a_node_whose_clock_is_far_off_does_not_serve_and_others_look_all_the_same(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 31)
    bridge = await fleet.bridge()
    assert await bridge.shard_infos()
    with pytest.raises(Misconfigured, match=r"\+31\.0 s off"):
        await bridge.serve("node-a")


async def test_consumers_of_the_past_are_found(fleet: Fleet, bridge: Bridge) -> None:
    await fleet.raw.xgroup_create("chat:{0}:commands", "chatservers", "0", mkstream=True)
    for number in range(21):
        assert await found(bridge) == []
        await fleet.raw.xgroup_createconsumer("chat:{0}:commands", "chatservers", f"gone-{number}")
    assert await found(bridge) == [("warn", "consumers")]


async def test_a_command_that_was_begun_long_ago_is_found(fleet: Fleet, bridge: Bridge) -> None:
    stream, ago = "chat:{0}:commands", int(time.time() * 1000) - 31_000
    await fleet.raw.xgroup_create(stream, "chatservers", "0", mkstream=True)
    await fleet.raw.execute_command("XADD", stream, f"{ago}-1", "v", "1")
    assert await found(bridge) == []  # nobody has read it
    await fleet.raw.xreadgroup("chatservers", "node-x", {stream: ">"})
    assert await found(bridge) == [("warn", "oldest_pending")]
    await fleet.raw.xack(stream, "chatservers", f"{ago}-1")
    assert await found(bridge) == []


async def test_a_connection_that_came_back_is_reason_to_look(own_fleet: Fleet, events: Recorder) -> None:
    await own_fleet.bridge()
    await own_fleet.raw.config_set("appendfsync", "no")
    await own_fleet.raw.client_kill_filter(_type="normal", skipme=True)
    await events.wait_for(FaultFound, code="appendfsync_no")


async def test_settings_that_were_changed_behind_our_back_are_found(fleet: Fleet, bridge: Bridge) -> None:
    await fleet.raw.hset("chat:{meta}", "shards", 2)
    assert await found(bridge) == [("refuse", "settings_differ")]
    await fleet.raw.flushall()
    assert await found(bridge) == []


async def test_a_server_that_evicts_is_refused(own_fleet: Fleet) -> None:
    await own_fleet.raw.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(Misconfigured, match="set it to noeviction"):
        await own_fleet.bridge()


async def test_a_server_that_forgets_is_refused_unless_that_is_accepted(own_fleet: Fleet) -> None:
    await own_fleet.raw.config_set("appendonly", "no")
    with pytest.raises(Misconfigured, match="set appendonly yes"):
        await own_fleet.bridge()
    assert await own_fleet.bridge(allow_volatile=True)


async def test_another_count_of_shards_is_refused_with_the_stored_one(fleet: Fleet) -> None:
    await fleet.bridge(shards=4)
    with pytest.raises(Misconfigured, match="BRIDGE_SHARDS=4"):
        await fleet.bridge(shards=8)


async def test_another_namespace_counts_for_itself(fleet: Fleet) -> None:
    await fleet.bridge(shards=4)
    assert await fleet.bridge(shards=8, namespace="other")
    await fleet.raw.delete("other:{meta}")


async def test_a_schema_to_come_is_refused(fleet: Fleet) -> None:
    await fleet.raw.hset("chat:{meta}", mapping={"shards": 1, "schema": "2"})
    with pytest.raises(Misconfigured, match="schema 2"):
        await fleet.bridge()


async def test_all_who_start_at_once_agree(fleet: Fleet) -> None:
    answers = await asyncio.gather(*(fleet.bridge(shards=4 + i % 2) for i in range(10)), return_exceptions=True)
    stored = int(await fleet.raw.hget("chat:{meta}", "shards"))
    assert sum(isinstance(answer, Misconfigured) for answer in answers) == 5
    assert {answer.shards for answer in answers if not isinstance(answer, BaseException)} == {stored}


async def test_a_server_that_hides_its_settings_is_taken_as_it_is(
    start_server: Callable[..., Server], engine: str
) -> None:
    server = start_server(engine)
    client: Any = server.client()
    await client.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", "-config")
    async with Bridge.connect(server.url.replace("unix://", "unix://plain:secret@"), shards=1) as bridge:
        assert await found(bridge) == [("unknown", "not_told")]
        assert bridge.self_check.ok
        [finding] = bridge.self_check.findings
        for name in ("appendonly", "appendfsync", "client-output-buffer-limit", "min-replicas-to-write"):
            assert name in finding.message
