"""What the command line prints: JSON for programs, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def print_list(items: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json({"items": items, "next_cursor": None})  # as lists of the REST API
    else:
        print_table(columns, ([text(item[column]) for column in columns] for item in items))


def print_command(answer: Mapping[str, Any], *, repeated: bool = False) -> None:
    where = f" on {answer['node']}" if answer.get("node") else ""
    line = f"{answer['id']} {answer['type']} {answer['subject']}: {answer['state']}{where}"
    if answer.get("result"):
        line += f" {json.dumps(answer['result'], ensure_ascii=False)}"
    if answer.get("error"):
        line += f" ({answer['error']['code']}: {answer['error']['message']})"
    line += _told(answer.get("receipts") or [], answer.get("missing_nodes") or [])
    print(line + (" (it had been sent before)" if repeated else ""))


def _told(receipts: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> str:
    """Such as ``; 2 sessions on node-b; 2 of 3 nodes, no word from node-c``; nothing where no node has to answer."""
    if not receipts and not missing:
        return ""
    touched = [(r["sessions"], r["node"]) for r in receipts if r["sessions"]]
    parts = [f"{n} session{'s' if n > 1 else ''} on {node}" for n, node in touched] or ["no sessions"]
    parts.append(f"{len(receipts)} of {len(receipts) + len(missing)} nodes")
    if missing:
        parts[-1] += f", no word from {', '.join(missing)}"
    return "".join(f"; {part}" for part in parts)


def print_findings(ok: bool, findings: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"ok": ok, "findings": findings})
        return
    for finding in findings:
        where = f" on {finding['server']}" if finding["server"] else ""
        print(f"{finding['severity']} {finding['code']}{where}: {finding['message']}; {finding['remedy']}")
    if ok:
        print("nothing is known to be wrong")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, show_header=bool(columns), pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console = Console()
    # Into a pipe, every cell is whole, on a line of its own row.
    Console(width=None if console.is_terminal else 10_000, highlight=False).print(table)


def text(value: Any) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.1f}"
        case str():
            return value
        case _:
            return json.dumps(value, ensure_ascii=False)


def print_json_line(value: Any) -> None:
    """One of many, for who reads them as they come."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))
