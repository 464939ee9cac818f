"""Figures that tests measure: a table at the end of the run, and JSON with ``--report DIR``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

_PROPERTY = "figures"


class Figures:
    """The figures of one test."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def report(self, scenario: str, **values: Any) -> None:
        """One line of the table; the report has the same under the scenario's name."""
        self._node.user_properties.append((_PROPERTY, {"scenario": scenario, **values}))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Count, p50, p99 and the largest of some seconds."""
    ordered = sorted(values)
    if not ordered:
        return {"n": 0}
    last = len(ordered) - 1
    places = {"p50": int(last * 0.5), "p99": int(last * 0.99), "max": last}
    return {"n": len(ordered), **{name: round(ordered[place], 3) for name, place in places.items()}}


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    return Figures(request.node)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("bridge").addoption("--report", type=Path, default=None, help="write figures there, as JSON")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    found = [
        {"test": report.nodeid, **value}
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if not found:
        return
    terminalreporter.section("figures")
    for row in found:
        values = "  ".join(f"{name} {_shown(value)}" for name, value in row.items() if name not in ("test", "scenario"))
        terminalreporter.write_line(f"{row['scenario']:<44} {values}")
    if config.option.report is not None:
        config.option.report.mkdir(parents=True, exist_ok=True)
        record = {"seed": config.option.seed, "full": config.option.full, "cpus": os.cpu_count(), "figures": found}
        (config.option.report / "figures.json").write_text(json.dumps(record, indent=1))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + " ".join(f"{name} {_shown(part)}" for name, part in value.items()) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)
