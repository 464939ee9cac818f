"""Every text of the admin UI is there in both languages."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from string import Formatter

import backoffice.ui
from backoffice.alarms import RULES
from backoffice.operators import Role
from backoffice.problems import CODES
from backoffice.ui.korean import KOREAN
from backoffice.ui.site import SAID

ROOT = Path(backoffice.ui.__file__).parent
_TEMPLATE = re.compile(r"""\b_\(\s*(?:"([^"]+)"|'([^']+)')""")
_SCRIPT = re.compile(r"""\bsay\(\s*'([^']+)'""")
# What templates translate without naming it: states, kinds and levels.
NAMES = {
    "scheduled", "accepted", "handling", "retrying", "done", "rejected", "expired", "dead", "cancelled", "live",
    "draining", "open", "frozen", "closed", "mute", "ban", "critical", "warning", "info", "refuse", "warn", "unknown",
}  # fmt: skip


def said() -> set[str]:
    """Every text that a page can show."""
    found = {a or b for path in ROOT.rglob("*.html") for a, b in _TEMPLATE.findall(path.read_text())}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _is_translation(node.func) and isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value))
    roles, titles = {str(role) for role in Role}, {title for _, title in CODES.values()}
    return found | NAMES | roles | titles | {rule.remedy for rule in RULES}


def _is_translation(function: ast.expr) -> bool:
    match function:
        case ast.Name(id="N_" | "words"):
            return True
        case ast.Attribute(attr="words"):
            return True
        case _:
            return False


def test_every_text_has_its_korean_and_every_korean_its_text() -> None:
    assert said() - set(KOREAN) == set()
    assert set(KOREAN) - said() == set()


def test_both_languages_have_the_same_places_for_values() -> None:
    for english, korean in KOREAN.items():
        assert _places(english) == _places(korean), english


def test_korean_is_korean() -> None:
    latin = [text for text in KOREAN.values() if not re.search("[가-힣]", text)]
    assert latin == []


def test_scripts_say_only_what_the_page_gives_them() -> None:
    spoken = {text for path in ROOT.rglob("static/*.js") for text in _SCRIPT.findall(path.read_text())}
    assert spoken - set(SAID) == set()


def _places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}
