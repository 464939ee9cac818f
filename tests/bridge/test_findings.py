"""Judgement of the self-check: facts in, findings out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bridge.findings import (
    CODES,
    WARN,
    Finding,
    GroupFacts,
    OurFacts,
    ServerFacts,
    judge_groups,
    judge_replication,
    judge_skew,
    ok,
    settings_differ,
)
from bridge.findings import judge_server as judge

WELL = ServerFacts(
    "h:1", policy="noeviction", appendonly=True, appendfsync="everysec", pubsub_bytes=8 << 20, min_replicas=0,
    detection_s=2.0, detects=True, primary=True, aof_written=True, replicas=2, linked=2, skew_s=0.0, missing=(),
)  # fmt: skip
OURS = OurFacts(timeout_s=1.0)


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in findings]


def test_nothing_is_found_where_all_is_well() -> None:
    assert judge(WELL, OURS) == []


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"policy": "allkeys-lru"}, [("refuse", "evicts")]),
        ({"policy": "volatile-ttl"}, [("refuse", "evicts")]),
        ({"appendonly": False}, [("refuse", "volatile")]),
        ({"detection_s": 1.9}, [("refuse", "timeout_too_long")]),
        ({"detection_s": 15.0}, []),
        ({"primary": False}, [("refuse", "not_primary")]),
        ({"missing": ("SPUBLISH", "XINFO GROUPS")}, [("refuse", "missing_command")]),
        ({"skew_s": 30.1}, [("refuse", "clock_skew")]),
        ({"skew_s": -30.1}, [("refuse", "clock_skew")]),
        ({"skew_s": 30.0}, [("warn", "clock_skew")]),
        ({"skew_s": -1.1}, [("warn", "clock_skew")]),
        ({"skew_s": 1.0}, []),
        ({"min_replicas": 1}, []),
        ({"min_replicas": 2}, [("warn", "min_replicas")]),
        ({"min_replicas": 1, "replicas": 1, "linked": 1}, [("warn", "min_replicas")]),
        ({"min_replicas": 1, "replicas": 0, "linked": 0}, [("warn", "min_replicas")]),
        ({"appendfsync": "no"}, [("warn", "appendfsync_no")]),
        ({"appendfsync": "always"}, []),
        ({"pubsub_bytes": (8 << 20) - 1}, [("warn", "pubsub_buffer")]),
        ({"pubsub_bytes": 0}, []),
        ({"aof_written": False}, [("warn", "aof_write_failed")]),
        ({"linked": 1}, [("warn", "replica_down")]),
        ({"linked": 0, "replicas": 0}, []),
        ({"policy": None, "skew_s": None}, [("unknown", "not_told")]),
        ({"detection_s": None}, [("unknown", "not_told")]),
        ({"detection_s": None, "detects": False}, []),
        ({"policy": "allkeys-lru", "appendonly": False, "linked": 0},
         [("refuse", "evicts"), ("refuse", "volatile"), ("warn", "replica_down")]),
    ],
)  # fmt: skip
def test_each_fault_of_a_server_is_found(facts: dict[str, Any], found: list[tuple[str, str]]) -> None:
    findings = judge(replace(WELL, **facts), OURS)
    assert told(findings) == found
    assert all(finding.server == "h:1" and finding.message and finding.remedy for finding in findings)


def test_a_server_without_a_file_is_well_where_that_was_asked_for() -> None:
    assert judge(replace(WELL, appendonly=False), replace(OURS, allow_volatile=True)) == []


def test_what_is_not_told_is_named_and_nothing_else_is_made_of_it() -> None:
    nothing = ServerFacts("h:1", detects=True)
    [finding] = judge(nothing, OURS)
    assert finding.severity == "unknown"
    for name in ("maxmemory-policy", "appendonly", "appendfsync", "role", "commands", "fail-over detection"):
        assert name in finding.message
    assert ok([finding])


@pytest.mark.parametrize(
    ("consumers", "oldest_s", "found"),
    [
        (22, 30.0, []),
        (23, None, [("warn", "consumers")]),
        (0, 30.1, [("warn", "oldest_pending")]),
        (100, 31.0, [("warn", "consumers"), ("warn", "oldest_pending")]),
    ],
)
def test_each_fault_of_a_group_is_found(consumers: int, oldest_s: float | None, found: list[tuple[str, str]]) -> None:
    groups = [GroupFacts(0, 0, None), GroupFacts(7, consumers, oldest_s)]
    findings = judge_groups(groups, live_nodes=2)
    assert told(findings) == found
    assert all("shard 7:" in finding.message for finding in findings)


def test_many_shards_with_one_fault_are_one_finding() -> None:
    [finding] = judge_groups([GroupFacts(shard, 50, None) for shard in range(8)], 0)
    assert finding.message.startswith("shards 0, 1, 2, 3, 4 and 3 more: up to 50 consumers")


@pytest.mark.parametrize(
    ("replicas", "ours", "found"),
    [
        (1, OURS, [("warn", "no_journal")]),
        (0, OURS, []),
        (None, OURS, []),
        (1, replace(OURS, journal=True), []),
        (1, replace(OURS, wait_replicas=1), []),
    ],
)
def test_accepted_commands_outlive_a_fail_over_by_journal_or_replicas(
    replicas: int | None, ours: OurFacts, found: list[tuple[str, str]]
) -> None:
    assert told(judge_replication([WELL if replicas else replace(WELL, replicas=replicas)], ours)) == found


def test_every_finding_that_can_be_made_is_on_the_list_of_codes() -> None:
    bad = ServerFacts(
        "h:1", policy="allkeys-lru", appendonly=False, appendfsync="no", pubsub_bytes=1, min_replicas=3,
        detection_s=0.5, detects=True, primary=False, aof_written=False, replicas=2, linked=0, skew_s=99.0,
        missing=("TIME",),
    )  # fmt: skip
    skew = judge_skew(2.0)
    assert skew is not None
    made = [
        *judge(bad, OURS), *judge(ServerFacts("h:1"), OURS), *judge_groups([GroupFacts(0, 99, 99.0)], 0),
        *judge_replication([bad], OURS), skew, settings_differ("a", "b"),
        settings_differ("a", "b", severity=WARN), *judge(ServerFacts("h:1", away=True), OURS),
    ]  # fmt: skip
    assert sorted(set(told(made))) == sorted(CODES)


def test_a_finding_reads_as_where_what_and_remedy() -> None:
    assert str(Finding("warn", "x", "it is bad", "mend it", "h:1")) == "h:1: it is bad; mend it"
    assert str(Finding("warn", "x", "it is bad", "mend it")) == "it is bad; mend it"
