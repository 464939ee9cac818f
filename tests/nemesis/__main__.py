"""``python -m tests.nemesis``: every combination, one after the other; writes docs/nemesis.md.

What is done is kept in build/nemesis: a run that was interrupted goes on where it was, with its seed.
"""

from __future__ import annotations

import argparse
import asyncio
import pickle
import random
import sys
import traceback
from pathlib import Path

import orjson

from tests.nemesis import report
from tests.nemesis.run import Run
from tests.nemesis.schedule import PLACES
from tests.nemesis.summary import Summary
from tests.servers import version

ROOT = Path(__file__).parents[2]
KEPT, PAGE = ROOT / "build" / "nemesis", ROOT / "docs" / "nemesis.md"
ENGINES = ("valkey-9.1", "redis-7.0")
COMBINATIONS = [f"{place}/{engine}" for place in PLACES for engine in ENGINES]
MINUTES = 4.0


def main() -> int:
    """Exit status 1 if a checker is invalid anywhere."""
    options = _options()
    wanted = [name for name in COMBINATIONS if not options.only or any(part in name for part in options.only)]
    if not wanted:
        _say(f"--only: none of {', '.join(COMBINATIONS)}")
        return 2
    seed, minutes = plan(options)
    _say(f"seed {seed}, {minutes:g} minutes of faults each: {', '.join(wanted)}")
    before = [] if options.only else [name for name in wanted if is_done(name, seed)]
    if before:
        _say(f"done already: {', '.join(before)}")
    broken = [name for name in wanted if name not in before and not _one(name, seed, minutes)]
    summaries = [summary for name in COMBINATIONS if (summary := _kept(name)) is not None]
    if not options.no_docs:
        report.write(summaries, PAGE)
    done = [summary for summary in summaries if summary.name in wanted]
    if len(wanted) == len(COMBINATIONS) and not broken:
        (KEPT / "plan.json").unlink(missing_ok=True)
    return 0 if not broken and all(summary.valid for summary in done) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("nemesis", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the schedules; by default that of the interrupted run, or any")
    parser.add_argument("--minutes", type=float, help=f"of faults per combination, {MINUTES:g} by default")
    parser.add_argument("--only", action="append", help=f"part of a name such as {COMBINATIONS[0]}; may be repeated")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/nemesis.md as it is")
    return parser.parse_args()


def plan(options: argparse.Namespace) -> tuple[int, float]:
    """Seed and minutes: as asked for, or of the run that was interrupted. Forgets results of another plan."""
    path = KEPT / "plan.json"
    before = orjson.loads(path.read_bytes()) if path.exists() else {}
    seed = options.seed if options.seed is not None else before.get("seed", random.randrange(1 << 32))
    minutes = options.minutes if options.minutes is not None else before.get("minutes", MINUTES)
    wanted = {"seed": seed, "minutes": minutes}
    if wanted != before and not options.only:
        KEPT.mkdir(parents=True, exist_ok=True)
        for old in KEPT.glob("*.json"):
            old.unlink()
        path.write_bytes(orjson.dumps(wanted))
    return seed, minutes


def is_done(name: str, seed: int) -> bool:
    """Whether the run that goes on here has come so far."""
    summary = _kept(name)
    since = (KEPT / "plan.json").stat().st_mtime
    return summary is not None and summary.seed == seed and _path(name).stat().st_mtime >= since


def _one(name: str, seed: int, minutes: float) -> bool:
    """Whether it came to its end; the others run all the same."""
    place, _, engine = name.partition("/")
    _say(f"{name}:")
    run = Run(place, engine, seed, minutes * 60, say=lambda line: _say(f"[{name}] {line}"))
    try:
        history = asyncio.run(run.run())
    except Exception:
        _say(f"[{name}] did not come to its end:\n{traceback.format_exc()}")
        return False
    summary = Summary.of(history, version(engine))
    summary.write(KEPT)
    _path(name).with_suffix(".history").write_bytes(pickle.dumps(history))  # to look closer at what was wrong
    _tell(summary)
    return True


def _tell(summary: Summary) -> None:
    for verdict in summary.verdicts:
        excused = f", {verdict['excused']} by design" if verdict["excused"] else ""
        _say(f"[{summary.name}] {verdict['checker']:16} {verdict['wrong']} of {verdict['looked_at']:,}{excused}")
        for example in verdict["examples"]:
            _say(f"    {example}")
    _say(f"[{summary.name}] {'valid' if summary.valid else 'INVALID'}, recovery {summary.recovery}")


def _path(name: str) -> Path:
    return KEPT / f"{name.replace('/', '-')}.json"


def _kept(name: str) -> Summary | None:
    return Summary.read(_path(name)) if _path(name).exists() else None


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
