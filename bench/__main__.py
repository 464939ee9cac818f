"""``python -m bench [NAME…] [--quick] [--json FILE]``: run the benches and show their figures beside the bars."""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import import_module
from pathlib import Path

import orjson
from rich.console import Console
from rich.status import Status
from rich.table import Table

from bench.measure import FULL, QUICK, Row, Scale, Session

NAMES = ("commands", "publish", "http", "latency", "mute", "takeover", "fanout", "memory", "hostile", "history",
         "overview")  # fmt: skip
Bench = Callable[[Session], AsyncIterator[Row]]


def main() -> None:
    """Exit status 1 where a bar of a full run is missed."""
    parser = argparse.ArgumentParser("bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(NAMES)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="a tenth of the load: does it run, is it far off")
    parser.add_argument("--uvloop", action="store_true", help="run candidates and baselines on uvloop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round here too")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no bench {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    console = Console()
    factory = import_module("uvloop").new_event_loop if options.uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        rows = runner.run(_run(options.names or NAMES, QUICK if options.quick else FULL, console))
    console.print(_table(rows))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(orjson.dumps(_record(rows), option=orjson.OPT_INDENT_2))
    if not options.quick and any(row.passed is False for row in rows):
        sys.exit(1)


async def _run(names: Sequence[str], scale: Scale, console: Console) -> list[Row]:
    rows = []
    with console.status("starting") as status:
        session = Session(scale, lambda text: _show(status, text, console))
        for name in names:
            bench: Bench = import_module(f"bench.{name}").bench
            async for row in bench(session):
                rows.append(row)
                console.print(f"{row.bench}: {row.case}: {row.judged} {'' if row.baseline else row.unit}")
    return rows


def _show(status: Status, text: str, console: Console) -> None:
    if console.is_terminal:
        status.update(text)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(title="median (min–max) of the rounds")
    for heading in ("bench", "case", "unit", "ours", "baseline", "ratio", "bar", ""):
        table.add_column(heading, justify="left" if heading in ("bench", "case", "unit") else "right")
    for row in rows:
        bar = "" if row.bar is None else f"{'≥' if row.more_is_better else '≤'} {row.bar:g}"
        mark = {None: "", True: "[green]ok", False: "[red]missed"}[row.passed]
        ratio = "" if row.baseline is None else str(row.judged)
        table.add_row(row.bench, row.case, row.unit, str(row.candidate), str(row.baseline or ""), ratio, bar, mark)
    return table


def _record(rows: Sequence[Row]) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": len(__import__("os").sched_getaffinity(0)),
        "rows": [row.record() for row in rows],
    }


if __name__ == "__main__":
    main()
