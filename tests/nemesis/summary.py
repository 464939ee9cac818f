"""What is kept of a run: the figures of the report and the series of its picture, as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson

from tests.figures import spread
from tests.nemesis.checkers import judge, recoveries
from tests.nemesis.history import Heard, History
from tests.nemesis.schedule import KINDS

SHOWN = 20  # problems of one checker


@dataclass(frozen=True, slots=True)
class Bar:
    """A fault, or the life of a process, in the picture."""

    lane: str
    label: str
    began: float
    ended: float


@dataclass(slots=True)
class Summary:
    """One combination's run."""

    place: str
    engine: str
    version: str
    seed: int
    minutes: float
    commands: int
    accepted: int
    says: int
    deliveries: int
    faults: dict[str, int]
    verdicts: list[dict[str, Any]]
    recovery: dict[str, float]
    bars: list[Bar] = field(default_factory=list)
    rates: dict[str, list[int]] = field(
        default_factory=dict
    )  # per second: accepted and handled of the numbered, delivered

    @property
    def name(self) -> str:
        return f"{self.place}/{self.engine}"

    @property
    def valid(self) -> bool:
        return all(not verdict["wrong"] for verdict in self.verdicts)

    @classmethod
    def of(cls, history: History, version: str) -> Self:
        verdicts = [
            {"checker": v.checker, "looked_at": v.looked_at, "wrong": len(v.wrong), "excused": v.excused,
             "examples": v.wrong[:SHOWN]}
            for v in judge(history)
        ]  # fmt: skip
        accepted = [issued for issued in history.issued if issued.accepted is not None]
        return cls(
            history.place, history.engine, version, history.seed, round(history.seconds / 60, 1),
            commands=len(history.issued), accepted=len(accepted), says=sum(s.code == "ok" for s in history.said),
            deliveries=sum(isinstance(entry, Heard) for entry in history.places),
            faults=dict(Counter(struck.kind for struck in history.struck)), verdicts=verdicts,
            recovery=spread([each.seconds for each in recoveries(history) if each.seconds is not None]),
            bars=[*_faults(history), *_lives(history)], rates=_rates(history),
        )  # fmt: skip

    def write(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.place}-{self.engine}.json"
        path.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))

    @classmethod
    def read(cls, path: Path) -> Self:
        told = orjson.loads(path.read_bytes())
        return cls(**{**told, "bars": [Bar(**bar) for bar in told["bars"]]})


def _faults(history: History) -> Iterable[Bar]:
    for struck in history.struck:
        yield Bar(KINDS[struck.kind].lane, struck.kind, round(struck.began, 2), round(struck.healed, 2))


def _lives(history: History) -> Iterable[Bar]:
    """From the first to the last sample of each process."""
    seen: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for sample in history.samples:
        seen[sample.process, sample.pid].append(sample.at)
    for (process, _), times in sorted(seen.items()):
        yield Bar(process, "", round(times[0], 2), round(times[-1], 2))


def _rates(history: History) -> dict[str, list[int]]:
    times = {
        "accepted": [
            issued.accepted for issued in history.issued if issued.accepted is not None and issued.n is not None
        ],
        "handled": [line.at for line in history.lines],
        "delivered": [entry.at for entry in history.places if isinstance(entry, Heard)],
    }
    end = int(max((max(each) for each in times.values() if each), default=0)) + 1
    return {name: _per_second(each, end) for name, each in times.items()}


def _per_second(times: list[float], seconds: int) -> list[int]:
    counts = Counter(int(at) for at in times)
    return [counts[second] for second in range(seconds)]
