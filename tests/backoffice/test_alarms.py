"""Alarms: when they are raised, when they clear, and that a killed node raises one."""

from __future__ import annotations

from typing import Any

import pytest

from backoffice.alarms import (
    CLEAR_AFTER_S,
    GROWING_S,
    OLDEST_S,
    STILL_S,
    UNHELD_S,
    Alarm,
    Alarms,
    Limits,
    Severity,
    Told,
)
from backoffice.sampler import Sample
from bridge.client import Bridge
from bridge.config import BridgeSettings
from tests.backoffice.conftest import serving
from tests.backoffice.service import Api
from tests.recorder import Recorder
from tests.waiting import until

LIMITS = Limits(in_flight=100, dead_length=1000, shards=8)


def sample(at: float, **more: Any) -> Sample:
    fields: dict[str, Any] = {
        "rate": 10.0, "lag": 0, "pending": 0, "oldest_s": None, "dead": 0, "dead_most": 0, "clients": 0,
        "wait_p50_s": None, "wait_p99_s": None, "live": 3, "gone": (), "unheld": 0,
    }  # fmt: skip
    return Sample(at=at, **{**fields, **more})


def codes(alarms: Alarms) -> list[str]:
    return [alarm.code for alarm in alarms.now]


@pytest.mark.parametrize(
    ("code", "seconds", "broken", "well"),
    [
        ("pending", 1, {"pending": 301}, {"pending": 300}),
        ("oldest_age", 1, {"oldest_s": OLDEST_S + 1}, {"oldest_s": OLDEST_S}),
        ("no_holder", UNHELD_S + 2, {"unheld": 1}, {"unheld": 0}),
        ("nothing_handled", STILL_S + 2, {"lag": 1, "rate": 0.0}, {"lag": 1, "rate": 0.1}),
        ("nothing_handled", STILL_S + 2, {"lag": 1, "rate": 0.0}, {"lag": 0, "rate": 0.0}),
        ("dead_letters", 1, {"dead": 1}, {"dead": 0}),
        ("dead_letters_full", 1, {"dead": 800, "dead_most": 800}, {"dead": 1600, "dead_most": 799}),
        ("node_gone", 1, {"gone": ("node-b",)}, {"gone": ()}),
        ("no_nodes", 1, {"live": 0}, {"live": 1}),
    ],
)
def test_a_rule_holds_or_does_not(code: str, seconds: float, broken: dict[str, Any], well: dict[str, Any]) -> None:
    for fields, raised in ((broken, True), (well, False)):
        alarms, samples = Alarms(LIMITS), []
        for second in range(int(seconds) + 1):
            samples.append(sample(float(second), **fields))
            alarms.look(samples)
        assert (code in codes(alarms)) is raised


@pytest.mark.parametrize(("per_second", "raised"), [(3, True), (1, False), (-3, False)])
def test_a_growing_lag_is_told(per_second: int, raised: bool) -> None:
    alarms, samples = Alarms(LIMITS), []
    for second in range(int(GROWING_S) + 5):
        samples.append(sample(float(second), lag=1000 + per_second * second))
        alarms.look(samples)
    assert ("lag_growing" in codes(alarms)) is raised


def test_what_waits_in_a_shard_that_is_back_has_not_grown() -> None:
    alarms, samples = Alarms(LIMITS), []
    for second in range(int(GROWING_S) * 2):
        away = second < GROWING_S + 10
        samples.append(sample(float(second), lag=0 if away else 500, unknown=3 if away else 0))
        alarms.look(samples)
        assert "lag_growing" not in codes(alarms)


def test_a_short_stop_is_no_alarm() -> None:
    alarms, samples = Alarms(LIMITS), []
    for second in range(30):
        samples.append(sample(float(second), lag=1, rate=float(second % 5 == 0), unheld=second % 3))
        alarms.look(samples)
    assert codes(alarms) == []


def test_an_alarm_keeps_its_beginning_and_clears_by_itself_after_a_while() -> None:
    alarms = Alarms(LIMITS)
    assert [alarm.code for alarm in alarms.look([sample(1.0, dead=1)])[0]] == ["dead_letters"]
    raised, cleared = alarms.look([sample(2.0, dead=2)])
    assert (raised, cleared, alarms.now[0].since, alarms.now[0].message) == ([], [], 1.0, "2 dead letters")
    assert alarms.look([sample(2.0 + CLEAR_AFTER_S - 1)]) == ([], [])
    _, cleared = alarms.look([sample(2.0 + CLEAR_AFTER_S)])
    assert [alarm.code for alarm in cleared] == ["dead_letters"]
    assert alarms.now == []


def test_critical_ones_come_first() -> None:
    alarms = Alarms(LIMITS)
    alarms.look([sample(1.0, dead=1)])
    alarms.look([sample(2.0, dead=1, live=0)])
    assert codes(alarms) == ["no_nodes", "dead_letters"]


async def test_without_a_node_there_is_an_alarm_and_with_one_it_clears(
    api: Api, bridge_settings: BridgeSettings, events: Recorder
) -> None:
    async def alarms() -> list[str]:
        return [alarm["code"] for alarm in (await api.get("/alarms")).json["items"]]

    await until(lambda: _has(alarms, "no_nodes"))
    async with serving(bridge_settings, events):
        await until(lambda: _lacks(alarms, "no_nodes"), timeout=30)
        series = (await api.get("/series")).json
        assert len({len(column) for column in series.values()}) == 1
        assert series["at"] == sorted(series["at"])


async def _has(alarms: Any, code: str) -> bool:
    return code in await alarms()


async def _lacks(alarms: Any, code: str) -> bool:
    return code not in await alarms()


async def test_the_time_that_commands_take_is_sampled(api: Api, node: Bridge) -> None:
    await api.issue("room.open", "room:lobby", {}, wait=10)

    async def sampled() -> bool:
        return any(value is not None for value in (await api.get("/series")).json["wait_p99_s"])

    await until(sampled)


async def test_alarms_are_paged_as_they_are_sorted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[tuple[str, Severity, float]] = [
        ("b", "warning", 10.5), ("z", "critical", 200.0), ("a", "warning", 10.5), ("y", "critical", 90.25)
    ]  # fmt: skip
    raised = [Alarm(code, severity, since, Told("x", {}), "y") for code, severity, since in kinds]
    monkeypatch.setattr(Alarms, "now", property(lambda _alarms: raised))
    found, cursor = [], ""
    while cursor is not None:
        page = (await api.get(f"/alarms?limit=1{cursor and f'&cursor={cursor}'}")).json
        found += [alarm["code"] for alarm in page["items"]]
        cursor = page["next_cursor"]
    assert found == ["y", "z", "a", "b"]
