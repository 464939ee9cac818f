"""What the documents say, held against the code."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

import bridge
from backoffice.alarms import RULES
from backoffice.config import BackofficeSettings
from backoffice.operators import role_to_issue
from bridge import cli
from bridge.chat import commands
from bridge.chat.events import BROADCASTS
from bridge.config import BridgeSettings, Settings
from bridge.dead_letters import CODES
from bridge.keys import Keys
from bridge.registry import default
from bridge.shards import shard_of
from chatserver.config import ChatSettings
from chatserver.frames import Close

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "README.ko.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CHANGELOG.md",
    ROOT / "bench" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
ARCHITECTURE = ROOT / "ARCHITECTURE.md"
COMMANDS, OPERATIONS, PROTOCOL, RUNBOOK = (
    ROOT / "docs" / f"{name}.md" for name in ("commands", "operations", "protocol", "runbook")
)
# Read by the command line; the table of the service leaves them to the line below it.
ELSEWHERE = {"BACKOFFICE_URL", "BACKOFFICE_TOKEN"}


def rows(page: Path) -> list[list[str]]:
    """Cells of every table row."""
    lines = (line.strip() for line in page.read_text().splitlines())
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]


def written(default: Any) -> str:
    match default:
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case SecretStr():
            return str(default.get_secret_value())
        case _:
            return str(default)


@pytest.mark.parametrize("model", [BridgeSettings, BackofficeSettings, ChatSettings])
def test_every_setting_is_documented_with_its_default(model: type[Settings]) -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(OPERATIONS) if len(row) > 1}
    prefix = model.model_config["env_prefix"]
    variables = {f"{prefix}{name.upper()}": field for name, field in model.model_fields.items()}
    assert {name for name in documented if name.startswith(prefix)} == set(variables) - ELSEWHERE
    for name in set(variables) - ELSEWHERE:
        field, told = variables[name], documented[name]
        if field.default is PydanticUndefined or field.default in (None, ()):
            assert "`" not in told, f"{name} has no fixed default"
        else:
            assert told == f"`{written(field.default)}`", name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_command_line_are_there(page: Path) -> None:
    root: Any = typer.main.get_command(cli.app)
    for line in re.findall(r"chatbridge ((?:dead )?[a-z]+(?:-[a-z]+)*)", page.read_text()):
        first, *rest = line.split()
        assert first in root.commands or first in ("backoffice",), line
        if first == "dead" and rest:
            assert rest[0] in root.commands["dead"].commands, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pieces_of_python_are_python_and_import_what_there_is(page: Path) -> None:
    for piece in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        tree = compile(piece, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert {name.name for node in imports if node.module == "bridge" for name in node.names} <= set(bridge.__all__)


def test_shards_of_subjects_are_as_the_table_for_other_languages_says() -> None:
    told = {cells[0].strip("`"): cells[1] for cells in rows(PROTOCOL) if re.fullmatch(r"`[a-z]+:\w+`", cells[0])}
    assert told
    assert told == {subject: str(shard_of(subject, 64)) for subject in told}


def test_every_close_code_is_told() -> None:
    text = PROTOCOL.read_text()
    codes = {value for name, value in vars(Close).items() if name.isupper()}
    assert {code for code in codes if str(code) not in text} == set()


def test_every_command_is_told_with_its_subject_payload_and_role() -> None:
    told = {cells[0].strip("`"): cells for cells in rows(COMMANDS) if len(cells) == 6 and "." in cells[0]}
    kinds = {kind.name: kind for kind in default.types() if kind.model.__module__ == commands.__name__}
    assert set(told) == set(kinds)
    for name, kind in kinds.items():
        _, subject, payload, role, *_ = told[name]
        assert (subject, role) == (kind.subject, str(role_to_issue(kind))), name
        assert optional_by_field(payload) == optional_of(kind.model), name


def test_every_broadcast_is_told_with_its_payload() -> None:
    told = {cells[0].strip("`"): cells[1] for cells in rows(COMMANDS) if len(cells) == 3 and "." in cells[0]}
    assert set(told) == set(BROADCASTS)
    for name, model in BROADCASTS.items():
        assert optional_by_field(told[name]) == optional_of(model), name


def test_every_alarm_has_a_remedy() -> None:
    assert {f"`{rule.code}` ({rule.severity})" for rule in RULES} <= {row[0] for row in rows(RUNBOOK)}


def test_every_cause_of_a_dead_letter_that_there_is_has_a_remedy() -> None:
    told = {code for row in rows(RUNBOOK) for code in re.findall(r"`([a-z_]+)`", row[0])}
    raised = {code for code in CODES if any(f'"{code}"' in path.read_text() for path in _sources("bridge", "*.py")
                                            if path.name != "dead_letters.py")}  # fmt: skip
    assert {code for code in raised if code not in told} == set()


def test_every_key_is_in_the_table_of_keys() -> None:
    text = ARCHITECTURE.read_text()
    keys = Keys()
    names = {"shard": 7, "id": "<id>", "caller": "<caller>", "subject": "<subject>", "key": "<key>", "name": "<name>",
             "node": "<node>"}  # fmt: skip
    skip = {"state", "shared", "shard"}  # named by those who use them
    made = [keys.meta, keys.live, keys.info, keys.draining, keys.nodes_spare]
    for method, function in inspect.getmembers(Keys, inspect.isfunction):
        if not method.startswith("_") and method not in skip:
            arguments = [names[name] for name in inspect.signature(function).parameters if name != "self"]
            made.append(function(keys, *arguments))
    assert [key for key in made if f"`{key.replace('{7}', '{s}')}`" not in text] == []


def test_every_module_of_the_library_is_on_the_map_in_its_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    told = {cells[0]: cells[1] for cells in rows(ARCHITECTURE) if len(cells) == 2}
    titles = ("command line", "vocabulary", "facade", "roles", "wire", "pure")
    for title, layer in zip(titles, layers, strict=True):
        modules = re.findall(r"[a-z_]+", layer)
        assert [name for name in modules if not re.search(rf"`{name}[`/]", told[title])] == [], title


@pytest.mark.parametrize("package", ["backoffice", "chatserver", "bridge/chat"])
def test_every_module_of_the_services_is_on_the_map(package: str) -> None:
    text = ARCHITECTURE.read_text()
    modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
    assert {name for name in modules if not re.search(rf"`(chat/)?{name}`", text)} == set()


def test_every_metric_is_told() -> None:
    text = OPERATIONS.read_text()
    sources = "".join(
        path.read_text() for package in ("backoffice", "chatserver") for path in _sources(package, "*.py")
    )
    made = set(re.findall(r"(?:Counter|Gauge|Histogram|watch)\(\s*\"([a-z_]+)\"", sources))
    assert made
    assert {name for name in made if name not in text} == set()


def optional_by_field(cell: str) -> dict[str, bool]:
    """What a cell says of a payload: fields in backquotes, "?" behind those that may be absent, values in brackets."""
    bare = re.sub(r"\([^)]*\)", "", cell)
    return {name: bool(mark) or ", or " in bare for name, mark in re.findall(r"`([a-z_]+)`(\??)", bare)}


def optional_of(model: type[BaseModel]) -> dict[str, bool]:
    return {name: not field.is_required() for name, field in model.model_fields.items()}


def _sources(package: str, pattern: str) -> list[Path]:
    return list((ROOT / package).rglob(pattern))
