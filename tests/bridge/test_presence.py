"""Who counts as vanished: looks in, names out."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bridge.presence import Sightings


@dataclass(frozen=True)
class Look:
    at: float
    up: bool = False
    beat: float | None = 1.0
    forget: bool = False  # before it: another server, or our own subscription was not there
    listed: bool = True


GONE = [Look(0.0, up=True), Look(0.1), Look(0.2), Look(0.3)]


@pytest.mark.parametrize(
    ("looks", "vanished"),
    [
        (GONE, {"b": 0.1}),
        (GONE[:3], {}),
        ([*GONE[:2], Look(5.0)], {}),
        ([Look(0.0), Look(0.1), Look(0.2), Look(0.3), Look(9.0)], {}),
        ([Look(0.0, up=True), Look(0.1), Look(0.2, forget=True), Look(0.3), Look(0.4), Look(9.0)], {}),
        ([Look(0.0, up=True), Look(0.1), Look(0.11), Look(0.12), Look(0.13)], {}),
        ([Look(0.0, up=True), Look(0.1), Look(0.2), Look(0.25, up=True), Look(0.3), Look(0.4)], {}),
        ([Look(0.0, up=True), Look(0.1), Look(0.2), Look(0.3, beat=2.0), Look(0.4, beat=2.0)], {}),
        ([Look(0.0, up=True), *(Look(i / 10, beat=float(i)) for i in range(1, 9))], {}),
        ([Look(0.0, up=True), Look(0.1), Look(0.2), *(Look(i / 10, beat=2.0) for i in range(3, 6))], {"b": 0.3}),
        ([*GONE, Look(0.4, beat=2.0)], {}),
        ([*GONE, Look(0.4, up=True)], {}),
        ([*GONE, Look(0.4, listed=False)], {}),
        ([*GONE, Look(0.4, forget=True), Look(0.5)], {"b": 0.1}),
        ([*GONE, Look(0.4, forget=True, beat=2.0)], {}),
    ],
    ids=[
        "three looks without it, a tenth apart", "two looks", "two looks, and a pause of its own between",
        "never seen subscribed", "seen only on another server",
        "looks too close together", "back in time", "a heartbeat in between", "a heartbeat at every look",
        "silent since its last heartbeat", "vanished, and then a heartbeat", "vanished, and then subscribed",
        "vanished, and off the list", "vanished before the server changed", "alive after the server changed",
    ],
)  # fmt: skip
def test_who_vanished(looks: list[Look], vanished: dict[str, float]) -> None:
    sightings = Sightings()
    for look in looks:
        if look.forget:
            sightings.forget()
        names = {"b": look.up, "c": True} if look.listed else {"c": True}
        sightings.see(look.at, names, {"b": look.beat, "c": 1.0} if look.listed else {"c": 1.0})
    assert sightings.vanished == vanished


def test_it_looks_more_often_only_while_somebody_is_missed() -> None:
    sightings = Sightings()
    missed = []
    for look in (*GONE, Look(0.4)):
        sightings.see(look.at, {"b": look.up}, {"b": look.beat})
        missed.append(sightings.missed)
    assert missed == [False, True, True, False, False]
