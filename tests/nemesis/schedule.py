"""Which faults, when: a pure function of the seed, so that a run can be repeated.

Faults come in waves: up to three at a time, of different lanes, then calm in which all must work again.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from itertools import count

FIRST_S, CALM_S = 3.0, 6.0
STAGGER_S = 1.2  # between the first and the last fault of a wave to begin
PLACES = ("standalone", "sentinel", "cluster")
EVERYWHERE = frozenset(PLACES)
REPLICATED = frozenset({"sentinel", "cluster"})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault. Faults of one lane never overlap."""

    lane: str
    seconds: tuple[float, float]  # how long it lasts, at least and at most
    places: frozenset[str] = EVERYWHERE
    needs: str = ""  # an ability of the engine or the machine
    loses: bool = False  # a replica may take over that lacks the last writes


KINDS: dict[str, Kind] = {
    "node killed": Kind("processes", (0.0, 1.0)),
    "node paused": Kind("processes", (0.5, 3.5)),
    "nodes replaced one by one": Kind("processes", (3.0, 3.0)),
    "node joins and leaves": Kind("processes", (2.0, 3.0)),
    "API killed": Kind("processes", (0.3, 1.5)),
    "poison kills its nodes": Kind("processes", (6.0, 6.0)),
    "server killed": Kind("servers", (0.1, 1.5), frozenset({"standalone"})),
    "server stalls": Kind("servers", (0.3, 1.5)),
    "server's clock set back": Kind("servers", (2.0, 4.0), frozenset({"standalone"}), needs="clock"),
    "primary killed": Kind("servers", (4.0, 4.0), REPLICATED, loses=True),
    "primary paused until replaced": Kind("servers", (4.0, 4.0), REPLICATED, loses=True),
    "link cut, primary killed": Kind("servers", (5.0, 5.0), REPLICATED, loses=True),
    "planned fail-over": Kind("servers", (1.0, 1.0), REPLICATED),
    "slots move key by key": Kind("servers", (1.0, 1.0), frozenset({"cluster"})),
    "slots move at once": Kind("servers", (1.0, 1.0), frozenset({"cluster"}), needs="atomic slot moves"),
    "memory is short": Kind("servers", (1.0, 3.0)),
    "scripts forgotten": Kind("connections", (0.0, 0.0)),
    "connections killed": Kind("connections", (0.0, 0.0)),
    "subscriptions killed": Kind("connections", (0.0, 0.0)),
    "connections are black holes": Kind("connections", (1.0, 3.0), frozenset({"standalone"})),
    "clients that do not read": Kind("connections", (2.0, 4.0)),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a schedule; ``pick`` chooses its target among those there are by then."""

    wave: int
    kind: str
    at: float  # seconds since the beginning of the faults
    seconds: float
    pick: int

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  wave {self.wave:2}  {self.kind}, {self.seconds:.1f} s"


def schedule(seed: int, place: str, seconds: float, abilities: Collection[str] = ()) -> list[Fault]:
    """Waves until ``seconds`` are full; every kind that can be had here comes up before one comes up again."""
    chance = random.Random(f"{seed} {place}")
    lanes: dict[str, list[str]] = {}
    for name, kind in KINDS.items():
        if place in kind.places and (not kind.needs or kind.needs in abilities):
            lanes.setdefault(kind.lane, []).append(name)
    bags: dict[str, list[str]] = {lane: [] for lane in lanes}
    faults: list[Fault] = []
    begin = FIRST_S
    for wave in count(1):
        of_this_wave = _wave(chance, wave, begin, lanes, bags)
        end = max(fault.at + fault.seconds for fault in of_this_wave) + CALM_S
        if faults and end > seconds:
            return faults
        faults += of_this_wave
        begin = end
    raise AssertionError("unreachable")


def _wave(
    chance: random.Random, wave: int, begin: float, lanes: dict[str, list[str]], bags: dict[str, list[str]]
) -> list[Fault]:
    faults = []
    # The fullest bags first, so that no kind waits for the end of a short run.
    names = sorted(lanes, key=lambda lane: (-len(bags[lane] or lanes[lane]), chance.random()))
    for lane in names[: chance.choice((1, 2, 2, 3, 3))]:
        if not bags[lane]:
            bags[lane] = chance.sample(lanes[lane], len(lanes[lane]))
        kind = bags[lane].pop()
        offset = chance.uniform(0, STAGGER_S) if faults else 0.0
        seconds = round(chance.uniform(*KINDS[kind].seconds), 2)
        faults.append(Fault(wave, kind, round(begin + offset, 2), seconds, chance.randrange(1 << 16)))
    return faults
