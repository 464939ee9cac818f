"""The picture of a run: what was broken when, which processes lived, and what was accepted, handled and delivered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from tests.nemesis.summary import Bar, Summary

WIDTH, LEFT, RIGHT = 1000, 110, 20
ROW, GAP, PLOT, HEAD = 16, 10, 90, 34
CHAR = 5.4  # width of a letter of a label
LANES = ("processes", "servers", "connections")
STYLE = """
text { font: 10px ui-sans-serif, system-ui, sans-serif; fill: #24292f }
.title { font-size: 13px; font-weight: 600 } .lane { font-weight: 600; text-anchor: end }
.grid { stroke: #d0d7de; stroke-width: 1 } .bed { fill: #f6f8fa } .page { fill: #ffffff }
.processes { fill: #bf3989 } .servers { fill: #cf222e } .connections { fill: #9a6700 } .life { fill: #57606a }
.accepted, .handled, .delivered { fill: none; stroke-width: 1.4 }
.accepted { stroke: #0969da } .handled { stroke: #1a7f37 } .delivered { stroke: #8250df }
.fill-accepted { fill: #0969da } .fill-handled { fill: #1a7f37 } .fill-delivered { fill: #8250df }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .grid { stroke: #30363d } .bed { fill: #161b22 } .page { fill: #0d1117 }
  .processes { fill: #f778ba } .servers { fill: #ff7b72 } .connections { fill: #d29922 } .life { fill: #8b949e }
  .accepted { stroke: #58a6ff } .handled { stroke: #3fb950 } .delivered { stroke: #bc8cff }
  .fill-accepted { fill: #58a6ff } .fill-handled { fill: #3fb950 } .fill-delivered { fill: #bc8cff }
}
"""


class Picture:
    """Rows from top to bottom; ``x`` is time."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary
        self._from = max(0.0, min((bar.began for bar in summary.bars), default=0.0) - 1)
        self._seconds = max([self._from + 1.0, *(bar.ended for bar in summary.bars), *map(len, summary.rates.values())])
        self._y = float(HEAD)
        self._parts: list[str] = []

    def svg(self) -> str:
        """All of it."""
        for lane in LANES:
            self._lane(lane, [bar for bar in self._summary.bars if bar.lane == lane])
        for process in sorted({bar.lane for bar in self._summary.bars} - set(LANES)):
            self._life(process, [bar for bar in self._summary.bars if bar.lane == process])
        self._y += GAP
        self._plot(("accepted", "handled"), "commands/s")
        self._plot(("delivered",), "deliveries/s")
        height = self._y + 18
        head = f"{self._summary.name}, seed {self._summary.seed}: what was broken, and what went on meanwhile"
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">',
            f"<title>{escape(head)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height:.0f}"/>',
            f'<text class="title" x="12" y="20">{escape(head)}</text>',
            *self._grid(height),
            *self._parts,
            "</svg>\n",
        ])  # fmt: skip

    def _x(self, seconds: float) -> float:
        return LEFT + (seconds - self._from) / (self._seconds - self._from) * (WIDTH - LEFT - RIGHT)

    def _grid(self, height: float) -> Iterable[str]:
        step = next(step for step in (5, 10, 15, 30, 60, 120) if self._seconds / step <= 16 or step == 120)
        for second in range(-int(-self._from // step) * step, int(self._seconds) + 1, step):
            x = self._x(second)
            yield f'<line class="grid" x1="{x:.1f}" y1="{HEAD - 6}" x2="{x:.1f}" y2="{height - 16:.0f}"/>'
            yield f'<text x="{x:.1f}" y="{height - 5:.0f}" text-anchor="middle">{second} s</text>'

    def _lane(self, lane: str, bars: Sequence[Bar]) -> None:
        rows: list[float] = []  # where each row is free again
        placed = []
        for bar in sorted(bars, key=lambda bar: self._extent(bar)[0]):
            first, last = self._extent(bar)
            row = next((i for i, free in enumerate(rows) if free <= first), len(rows))
            rows[row : row + 1] = [last + 10]
            placed.append((row, bar))
        height = max(1, len(rows)) * ROW
        self._bed(lane, height)
        for row, bar in placed:
            self._fault(lane, bar, self._y + row * ROW)
        self._y += height + GAP

    def _fault(self, lane: str, bar: Bar, y: float) -> None:
        x, width = self._x(bar.began), self._width(bar)
        self._parts.append(f'<rect class="{lane}" x="{x:.1f}" y="{y + 3:.1f}" width="{width:.1f}" height="10" rx="2"/>')
        place = f'x="{x + width + 4:.1f}"' if self._fits(bar) else f'x="{x - 4:.1f}" text-anchor="end"'
        self._parts.append(f'<text {place} y="{y + 12:.1f}">{escape(bar.label)}</text>')

    def _width(self, bar: Bar) -> float:
        return max(3.0, self._x(bar.ended) - self._x(bar.began))

    def _fits(self, bar: Bar) -> bool:
        """Whether its label has space to the right of it."""
        return self._x(bar.began) + self._width(bar) + 4 + len(bar.label) * CHAR < WIDTH

    def _extent(self, bar: Bar) -> tuple[float, float]:
        """From where to where a fault and its label reach."""
        x, width, text = self._x(bar.began), self._width(bar), len(bar.label) * CHAR + 4
        return (x, x + width + text) if self._fits(bar) else (x - text, x + width)

    def _life(self, process: str, bars: Sequence[Bar]) -> None:
        self._parts.append(f'<text class="lane" x="{LEFT - 8}" y="{self._y + 9:.1f}">{escape(process)}</text>')
        for bar in bars:
            x, width = self._x(bar.began), max(1.0, self._x(bar.ended) - self._x(bar.began))
            self._parts.append(
                f'<rect class="life" x="{x:.1f}" y="{self._y + 3:.1f}" width="{width:.1f}" height="6" rx="2"/>'
            )
        self._y += ROW - 2

    def _plot(self, names: Sequence[str], unit: str) -> None:
        series = {name: self._summary.rates.get(name, []) for name in names}
        most = max((max(each) for each in series.values() if each), default=1) or 1
        self._bed(unit, PLOT)
        self._parts.append(f'<text class="lane" x="{LEFT - 8}" y="{self._y + 22:.1f}" opacity="0.7">max {most}</text>')
        for place, (name, each) in enumerate(series.items()):
            points = " ".join(
                f"{self._x(second + 0.5):.1f},{self._y + PLOT - value / most * (PLOT - 4):.1f}"
                for second, value in enumerate(each)
                if second >= self._from
            )
            self._parts.append(f'<polyline class="{name}" points="{points}"/>')
            y = self._y + 40 + 14 * place
            self._parts.append(f'<text class="lane fill-{name}" x="{LEFT - 8}" y="{y:.1f}">{name}</text>')
        self._y += PLOT + GAP

    def _bed(self, name: str, height: float) -> None:
        self._parts.append(
            f'<rect class="bed" x="{LEFT}" y="{self._y:.1f}" width="{WIDTH - LEFT - RIGHT}" height="{height}"/>'
        )
        self._parts.append(f'<text class="lane" x="{LEFT - 8}" y="{self._y + 11:.1f}">{escape(name)}</text>')


def draw(summary: Summary) -> str:
    """An SVG that is legible on light and on dark pages."""
    return Picture(summary).svg()
