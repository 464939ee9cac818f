"""Servers that a bridge does not start on, and what it finds wrong with them while it runs."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge import survey
from bridge.client import Bridge
from bridge.errors import Misconfigured
from bridge.telemetry import FaultCleared, FaultFound, StepFailed
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


@pytest.mark.parametrize("command", ["spublish", "xclaim", "evalsha", "ssubscribe", "pubsub", "zmscore"])
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


@pytest.mark.parametrize("keys", ["chat:{0}:*", "chat:{nodes}:*", "chat:{meta}"])
async def test_every_kind_of_keys_and_channels_has_to_be_ours(
    start_server: Callable[..., Server], engine: str, keys: str
) -> None:
    """Each kind is allowed but one."""
    server = start_server(engine)
    client: Any = server.client()
    allowed = {"chat:{0}:*", "chat:{nodes}:*", "chat:{meta}"} - {keys}
    rules = [*(f"~{pattern}" for pattern in allowed), *(f"&{pattern}" for pattern in allowed)]
    await client.execute_command("ACL", "SETUSER", "some", "on", ">secret", *rules, "+@all")
    with pytest.raises(Misconfigured, match="lacks commands, or forbids them"):
        async with Bridge.connect(server.url.replace("unix://", "unix://some:secret@"), shards=1):
            pass


async def test_wait_is_asked_for_where_there_are_replicas(start_server: Callable[..., Server], engine: str) -> None:
    primary, other = start_server(engine, tcp=True), start_server(engine, tcp=True)
    client: Any = primary.client()
    await client.execute_command("ACL", "SETUSER", "weak", "on", ">secret", "~*", "&*", "+@all", "-wait")
    async with Bridge.connect(primary.url.replace("redis://", "redis://weak:secret@"), shards=1) as bridge:
        assert await found(bridge) == []
        await other.client().execute_command("REPLICAOF", "127.0.0.1", primary.port)  # type: ignore[no-untyped-call]

        async def is_missing() -> bool:
            return ("refuse", "missing_command") in await found(bridge)

        await until(is_missing)


_OPTIONAL = {"CONFIG", "CLUSTER", "CLIENT", "SELECT", "PSUBSCRIBE"}  # done without, or known when connecting


def test_every_command_of_a_script_or_a_process_is_asked_for() -> None:
    services = [ROOT / "bridge", ROOT / "chatserver", ROOT / "backoffice"]
    lua = "".join(path.read_text() for service in services for path in service.rglob("scripts/*.lua"))
    python = "".join(path.read_text() for service in services for path in service.rglob("*.py"))
    python = python.replace('"POST"', "")  # HTTP's
    told = re.findall(r"\bp?call\('([A-Z]+)'(?:, '([A-Z]+)')?", lua)
    told += re.findall(r"(?:redis|link|call|send|each|write)\(\s*\"([A-Z]{3,})\"(?:, \"([A-Z]+)\")?", python)
    told += [(operation, "") for operation in re.findall(r"_write\(\"([A-Z]+)\"", python)]
    nested = {"XGROUP", "XINFO", "SCRIPT", "PUBSUB"}
    used = {f"{name} {second}" if name in nested else name for name, second in told} - _OPTIONAL
    assert {"EXPIRE", "WAIT", "PUBSUB SHARDNUMSUB", "XDEL", "INCRBY", "SSUBSCRIBE"} <= used
    asked = {survey._name(call) for call in survey._CALLS}
    assert used - asked == set()


@pytest.mark.parametrize(("off_s", "severity"), [(5.5, "warn"), (-40.5, "refuse")])
async def test_a_clock_that_is_off_is_found(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, off_s: float, severity: str
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + off_s)
    assert await found(bridge) == [(severity, "clock_skew")]
    [finding] = bridge.self_check.findings
    assert f"{int(off_s):+}." in finding.message  # to half a second, as a busy machine has it
    monkeypatch.undo()
    assert await found(bridge) == []


async def test_a_node_whose_clock_is_far_off_does_not_serve_and_others_look_all_the_same(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 31.5)
    bridge = await fleet.bridge()
    assert await bridge.shard_infos()
    with pytest.raises(Misconfigured, match=r"\+31\.\d s off"):
        await bridge.serve("node-a")


async def test_consumers_of_the_past_are_found(fleet: Fleet, bridge: Bridge) -> None:
    await fleet.raw.xgroup_create("chat:{0}:commands", "chatservers", "0", mkstream=True)
    for number in range(21):
        assert await found(bridge) == []
        await fleet.raw.xgroup_createconsumer("chat:{0}:commands", "chatservers", f"gone-{number}")
    assert await found(bridge) == [("warn", "consumers")]


async def test_a_command_that_was_begun_long_ago_is_found(fleet: Fleet, bridge: Bridge) -> None:
    stream, ago = "chat:{0}:commands", int(time.time() * 1000) - 60_000
    await fleet.raw.xgroup_create(stream, "chatservers", "0", mkstream=True)
    await fleet.raw.execute_command("XADD", stream, f"{ago}-1", "v", "1")
    assert await found(bridge) == []  # nobody has read it
    await fleet.raw.xreadgroup("chatservers", "node-x", {stream: ">"})
    assert await found(bridge) == []  # it waited for long, and was begun just now
    await fleet.raw.execute_command("XCLAIM", stream, "chatservers", "node-x", 0, f"{ago}-1", "IDLE", 31_000)
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


async def test_what_nobody_can_read_does_not_end_the_looks(fleet: Fleet, bridge: Bridge, events: Recorder) -> None:
    await fleet.raw.hset("chat:{meta}", "shards", b"\xff")
    await fleet.raw.client_kill_filter(_type="normal", skipme=True)  # reason to look
    await events.wait_for(StepFailed, name="self-check")
    await fleet.raw.hset("chat:{meta}", "shards", 2)
    await fleet.raw.client_kill_filter(_type="normal", skipme=True)
    await events.wait_for(FaultFound, code="settings_differ")


async def test_who_keeps_outcomes_for_another_time_is_told(fleet: Fleet, events: Recorder) -> None:
    first = await fleet.bridge()
    other = await fleet.bridge(outcome_seconds=60)
    [finding] = events.all(FaultFound, code="settings_differ")
    assert finding.severity == "warn"
    assert "BRIDGE_OUTCOME_SECONDS=3600" in finding.remedy
    assert await found(other) == [("warn", "settings_differ")]
    assert await found(first) == []


async def test_an_installation_of_before_learns_how_long_outcomes_live(fleet: Fleet) -> None:
    await fleet.raw.hset("chat:{meta}", mapping={"shards": 1, "schema": "1"})
    await fleet.bridge(outcome_seconds=60)
    assert await fleet.raw.hget("chat:{meta}", "outcome_seconds") == b"60"


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
