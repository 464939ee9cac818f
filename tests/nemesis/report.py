"""docs/nemesis.md: the part between its marks is written anew from the summaries, the rest stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.nemesis.summary import Summary
from tests.nemesis.timeline import draw

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
PICTURES = "nemesis"  # a folder beside the page


def write(summaries: Sequence[Summary], page: Path) -> None:
    """The figures and the pictures."""
    pictures = page.parent / PICTURES
    pictures.mkdir(exist_ok=True)
    for old in pictures.glob("*.svg"):
        old.unlink()
    for summary in summaries:
        (pictures / f"{summary.place}-{summary.engine}.svg").write_text(draw(summary))
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + "\n" + figures(summaries) + "\n" + END + after)


def figures(summaries: Sequence[Summary]) -> str:
    """Tables, and links to the pictures. Pure."""
    parts = [_overview(summaries), _faults(summaries), _verdicts(summaries), _pictures(summaries)]
    wrong = _wrong(summaries)
    return "\n\n".join(part for part in (*parts, wrong) if part)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _overview(summaries: Sequence[Summary]) -> str:
    rows = [
        (
            s.name, s.version, s.seed, f"{s.minutes:g}", f"{s.commands:,}", f"{s.says:,}", f"{s.deliveries:,}",
            sum(s.faults.values()), f"{s.recovery.get('p50', 0):g} s", f"{s.recovery.get('max', 0):g} s",
            "all valid" if s.valid else "**invalid**",
        )
        for s in summaries
    ]  # fmt: skip
    head = ("combination", "server", "seed", "minutes", "commands", "says", "deliveries", "faults", "recovery p50",
            "max", "checkers")  # fmt: skip
    return _table(head, rows)


def _faults(summaries: Sequence[Summary]) -> str:
    kinds = sorted({kind for s in summaries for kind in s.faults})
    rows = [(kind, *(s.faults.get(kind, "") for s in summaries)) for kind in kinds]
    return "Faults made:\n\n" + _table(("fault", *(s.name for s in summaries)), rows)


def _verdicts(summaries: Sequence[Summary]) -> str:
    rows = []
    for place, verdict in enumerate(summaries[0].verdicts if summaries else ()):
        cells = [_cell(s.verdicts[place]) for s in summaries]
        rows.append((verdict["checker"], *cells))
    return "Wrong of looked at, by checker:\n\n" + _table(("checker", *(s.name for s in summaries)), rows)


def _cell(verdict: dict[str, object]) -> str:
    wrong = f"**{verdict['wrong']}**" if verdict["wrong"] else "0"
    excused = f" (+{verdict['excused']})" if verdict["excused"] else ""
    return f"{wrong} of {verdict['looked_at']:,}{excused}"


def _pictures(summaries: Sequence[Summary]) -> str:
    shown = max(summaries, key=lambda s: len(s.faults), default=None)
    if shown is None:
        return ""
    others = ", ".join(f"[{s.name}]({PICTURES}/{s.place}-{s.engine}.svg)" for s in summaries if s is not shown)
    picture = f"![The run on {shown.name}]({PICTURES}/{shown.place}-{shown.engine}.svg)"
    return picture + (f"\n\nThe same of the others: {others}." if others else "")


def _wrong(summaries: Sequence[Summary]) -> str:
    lines = [
        f"- {s.name}, {verdict['checker']}: {example}"
        for s in summaries
        for verdict in s.verdicts
        for example in verdict["examples"]
    ]
    return "What was wrong:\n\n" + "\n".join(lines) if lines else ""
