"""Every text of the admin UI is there in both languages."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from string import Formatter
from typing import get_args

from pydantic_core.core_schema import ErrorType

import backoffice.alarms
import backoffice.ui
from backoffice.alarms import RULES
from backoffice.api.dead_letters import CauseCode
from backoffice.operators import Role
from backoffice.problems import CODES
from backoffice.ui.korean import KOREAN
from backoffice.ui.korean_codes import CODES as KOREAN_CODES
from backoffice.ui.site import SAID
from bridge.findings import CODES as FINDINGS

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
    alarms = {str(node.args[0].value) for node in calls(Path(backoffice.alarms.__file__), "_told")}
    found = {a or b for path in ROOT.rglob("*.html") for a, b in _TEMPLATE.findall(path.read_text())}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _is_translation(node.func) and isinstance(node.args[0], ast.Constant):
                found.add(str(node.args[0].value))
    roles, titles = {str(role) for role in Role}, {title for _, title in CODES.values()}
    return found | NAMES | roles | titles | alarms | {rule.remedy for rule in RULES}


def calls(path: Path, name: str, argument: int = 0) -> list[ast.Call]:
    """Calls of a function whose argument is a text."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == name
        and len(node.args) > argument
        and isinstance(node.args[argument], ast.Constant)
    ]


def codes() -> set[str]:
    """Every code under which the API says something in English, as far as it makes them up itself."""
    found = {f"problem:{code}" for code in CODES}
    found |= {f"error:{code}" for code in (*get_args(CauseCode), "rejected", "expired")}
    found |= {f"{kind}:{code}" for kind in ("finding", "remedy") for _, code in FINDINGS}
    for path in Path(backoffice.__file__).parent.rglob("*.py"):
        for name, argument in (("Fault", 1), ("PydanticCustomError", 0)):
            found |= {f"fault:{node.args[argument].value}" for node in calls(path, name, argument)}  # type: ignore[attr-defined]
    return found


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


def test_every_code_has_its_korean_and_every_korean_its_code() -> None:
    assert codes() - set(KOREAN_CODES) == set()
    of_pydantic = {f"fault:{code}" for code in get_args(ErrorType)}
    assert set(KOREAN_CODES) - codes() - of_pydantic == set()
    assert [text for text in KOREAN_CODES.values() if not re.search("[가-힣]", text)] == []


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
