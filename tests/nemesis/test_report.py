"""What is made of a run: its summary, its picture and its page."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.nemesis import report
from tests.nemesis.schedule import KINDS
from tests.nemesis.summary import Summary
from tests.nemesis.test_checkers import good, lose_a_command
from tests.nemesis.timeline import draw

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def summary() -> Summary:
    return Summary.of(good(), "9.1.2")


def test_a_summary_counts_what_was_recorded(summary: Summary) -> None:
    assert (summary.commands, summary.accepted, summary.says, summary.deliveries) == (5, 5, 2, 4)
    assert summary.faults == {"node killed": 1}
    assert summary.valid
    assert sum(summary.rates["accepted"]) == sum(summary.rates["handled"]) == 3
    assert summary.rates["handled"][11] == 1


def test_a_summary_is_kept_as_json(summary: Summary, tmp_path: Path) -> None:
    summary.write(tmp_path)
    assert Summary.read(tmp_path / "standalone-valkey-9.1.json") == summary


def test_the_picture_is_xml_with_every_fault_and_process_inside_its_frame(summary: Summary) -> None:
    for kind in KINDS:  # labels of all lengths, at the right edge
        summary.bars.append(type(summary.bars[0])(KINDS[kind].lane, kind, 58.0, 59.0))
    root = ElementTree.fromstring(draw(summary))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"node killed", "node-a", *KINDS} <= set(texts)
    for rect in root.iter(f"{SVG}rect"):
        x, y = (float(rect.attrib.get(name, 0)) for name in ("x", "y"))
        assert x + float(rect.attrib["width"]) <= width + 0.1
        assert y + float(rect.attrib["height"]) <= height + 0.1


def test_the_page_keeps_its_words_and_gets_the_figures(summary: Summary, tmp_path: Path) -> None:
    page = tmp_path / "nemesis.md"
    page.write_text(f"# Words\n{report.BEGIN}\nold\n{report.END}\nmore words\n")
    for _ in range(2):
        report.write([summary], page)
    text = page.read_text()
    assert text.startswith("# Words\n")
    assert text.endswith(f"{report.END}\nmore words\n")
    assert "old" not in text
    assert text.count("all valid") == 1
    assert (tmp_path / "nemesis" / "standalone-valkey-9.1.svg").exists()


def test_the_page_says_what_was_wrong() -> None:
    history = good()
    lose_a_command(history)
    text = report.figures([Summary.of(history, "9.1.2")])
    assert "**invalid**" in text
    assert "- standalone/valkey-9.1, lost: nemesis.add room:n0 3-2" in text
