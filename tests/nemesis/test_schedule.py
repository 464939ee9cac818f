"""Schedules of faults: repeatable, only of what can be had, and never two of one lane at a time."""

from __future__ import annotations

import pytest

from tests.nemesis.schedule import CALM_S, KINDS, PLACES, schedule

ALL = frozenset({"clock", "atomic slot moves"})


@pytest.mark.parametrize("place", PLACES)
def test_a_seed_is_a_schedule(place: str) -> None:
    assert schedule(7, place, 120, ALL) == schedule(7, place, 120, ALL)
    assert schedule(7, place, 120, ALL) != schedule(8, place, 120, ALL)


@pytest.mark.parametrize("place", PLACES)
def test_only_faults_that_the_place_can_have(place: str) -> None:
    faults = schedule(1, place, 600, ALL)
    assert {fault.kind for fault in faults} == {name for name, kind in KINDS.items() if place in kind.places}
    assert not {KINDS[fault.kind].needs for fault in schedule(1, place, 600)} - {""}


def test_every_kind_comes_up_within_four_minutes() -> None:
    for place in PLACES:
        for seed in range(20):
            kinds = {name for name, kind in KINDS.items() if place in kind.places}
            assert {fault.kind for fault in schedule(seed, place, 240, ALL)} == kinds


def test_faults_of_one_lane_do_not_overlap_and_waves_are_followed_by_calm() -> None:
    faults = schedule(3, "cluster", 600, ALL)
    waves = {wave: [fault for fault in faults if fault.wave == wave] for wave in {fault.wave for fault in faults}}
    for wave, of_wave in waves.items():
        lanes = [KINDS[fault.kind].lane for fault in of_wave]
        assert len(lanes) == len(set(lanes)) <= 3
        if wave + 1 in waves:
            end = max(fault.at + fault.seconds for fault in of_wave)
            assert min(fault.at for fault in waves[wave + 1]) >= end + CALM_S - 0.02
    assert max(len(of_wave) for of_wave in waves.values()) > 1


def test_a_schedule_ends_in_time_and_is_never_empty() -> None:
    for seconds in (1, 60, 240):
        faults = schedule(5, "standalone", seconds, ALL)
        assert faults
        assert len({fault.wave for fault in faults}) == 1 or faults[-1].at + faults[-1].seconds <= seconds
