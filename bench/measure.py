"""Rounds, ratios and bars. Baseline and candidate take turns, because the machine drifts more than they differ."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything; ratios of ``quick`` runs are for a first look only."""

    rounds: int
    share: float  # of the commands and seconds of a full run


FULL, QUICK = Scale(rounds=5, share=1.0), Scale(rounds=3, share=0.1)


@dataclass(frozen=True, slots=True)
class Figures:
    """One quantity, a value a round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.values)

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(min(self.values))}–{_short(max(self.values))})"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Without a baseline the bar is about the candidate itself."""

    bench: str
    case: str
    unit: str
    candidate: Figures
    baseline: Figures | None = None
    bar: float | None = None
    more_is_better: bool = True
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def judged(self) -> Figures:
        """What the bar is about: the ratio of each round, or the candidate's own figure."""
        if self.baseline is None:
            return self.candidate
        return Figures(tuple(c / b for c, b in zip(self.candidate.values, self.baseline.values, strict=True)))

    @property
    def passed(self) -> bool | None:
        if self.bar is None:
            return None
        return self.judged.median >= self.bar if self.more_is_better else self.judged.median <= self.bar

    def record(self) -> dict[str, Any]:
        """The row as JSON has it."""
        return {
            "bench": self.bench, "case": self.case, "unit": self.unit, "candidate": self.candidate.values,
            "baseline": self.baseline and self.baseline.values, "judged": self.judged.median, "bar": self.bar,
            "passed": self.passed, "notes": dict(self.notes),
        }  # fmt: skip


Run = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Session:
    """What a bench gets: how much to do, and whom to tell how far it is."""

    scale: Scale
    say: Callable[[str], None]

    def some(self, number: float, least: int = 1) -> int:
        """That many in a full run, fewer in a quick one."""
        return max(least, int(number * self.scale.share))

    async def rounds(self, what: str, candidate: Run, baseline: Run | None = None) -> tuple[Figures, Figures | None]:
        """Take turns, each round in the other order."""
        ours: list[float] = []
        theirs: list[float] = []
        turns = [(candidate, ours)] + ([(baseline, theirs)] if baseline is not None else [])
        for number in range(self.scale.rounds):
            self.say(f"{what}, round {number + 1} of {self.scale.rounds}")
            for run, figures in turns if number % 2 else reversed(turns):
                gc.collect()
                figures.append(await run())
        return Figures(tuple(ours)), Figures(tuple(theirs)) if theirs else None


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all are at or below."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))]


class Child:
    """A function of this package in a process of its own; both sides talk in lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def hear(self) -> Any:
        """The next line that the child said."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a child process ended early, with status {await self.process.wait()}")
        return orjson.loads(line)

    def tell(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(orjson.dumps(message) + b"\n")


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[Child]:
    """Run ``python -m module arguments``; killed at the end if it is still there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 26,
    )  # fmt: skip
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def say(message: Any) -> None:
    """In a child: tell the parent."""
    sys.stdout.buffer.write(orjson.dumps(message) + b"\n")
    sys.stdout.buffer.flush()


async def heard() -> Any:
    """In a child: the parent's next line; None once it is gone."""
    line = await asyncio.to_thread(sys.stdin.buffer.readline)
    return orjson.loads(line) if line else None


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
