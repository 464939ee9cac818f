"""Types, models and handlers: what is registered, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from bridge.envelope import Command
from bridge.errors import InvalidPayload, Misconfigured, UnknownType
from bridge.registry import Registry, load_plugins


class Grant(BaseModel):
    item: str
    count: int = Field(1, ge=1, le=99)


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.command("item.grant", subject="user")(Grant)
    return registry


async def handler(command: Command[Grant]) -> None:
    """Does nothing."""


def test_a_type_is_found_by_its_name(registry: Registry) -> None:
    known = registry.get("item.grant")
    assert (known.name, known.subject, known.model, known.plugin) == ("item.grant", "user", Grant, True)


def test_a_type_without_a_handler_is_known_but_not_handled(registry: Registry) -> None:
    assert [t.name for t in registry.types()] == ["item.grant"]
    assert (registry.handled(), registry.handler("item.grant")) == ([], None)


def test_the_handler_of_a_type_is_found(registry: Registry) -> None:
    registry.handles(Grant)(handler)
    assert registry.handler("item.grant") is handler
    assert registry.handled() == ["item.grant"]


def test_a_second_handler_is_refused(registry: Registry) -> None:
    registry.handles(Grant)(handler)
    with pytest.raises(Misconfigured, match=r"item\.grant has a handler already"):
        registry.handles(Grant)(handler)


def test_a_second_type_of_one_name_is_refused(registry: Registry) -> None:
    with pytest.raises(Misconfigured, match="registered twice"):
        registry.command("item.grant", subject="user")(Grant)


def test_a_handler_of_no_command_is_refused() -> None:
    with pytest.raises(Misconfigured, match="put @command"):
        Registry().handles(Grant)(handler)


def test_a_handler_that_is_not_async_is_refused(registry: Registry) -> None:
    with pytest.raises(Misconfigured, match="async"):
        registry.handles(Grant)(lambda command: None)  # type: ignore[arg-type, return-value]


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(UnknownType) as caught:
        Registry().get("item.grant")
    assert caught.value.type == "item.grant"


@pytest.mark.parametrize(
    "name", ["grant", "Item.grant", "item.", ".grant", "item grant.x", "a." + "b" * 63, "item.grant\n"]
)
def test_a_bad_type_name_is_refused(name: str) -> None:
    with pytest.raises(Misconfigured):
        Registry().command(name, subject="user")(Grant)


@pytest.mark.parametrize("kind", ["", "User", "a:b", "commands", "lease", "channel", "x" * 33])
def test_a_bad_subject_kind_is_refused(kind: str) -> None:
    with pytest.raises(Misconfigured):
        Registry().command("item.grant", subject=kind)(Grant)


def test_a_payload_becomes_its_model(registry: Registry) -> None:
    assert registry.get("item.grant").validate(b'{"item":"sword"}') == Grant(item="sword")


def test_every_fault_of_a_payload_is_told(registry: Registry) -> None:
    with pytest.raises(InvalidPayload) as caught:
        registry.get("item.grant").validate(b'{"count":0,"a/b~c":1}')
    assert [(path, code) for path, code, _ in caught.value.faults] == [
        ("/item", "missing"), ("/count", "greater_than_equal"), ("/a~1b~0c", "extra_forbidden"),
    ]  # fmt: skip


def test_a_model_may_allow_more_fields_itself() -> None:
    class Loose(BaseModel):
        model_config = ConfigDict(extra="allow")

    registry = Registry()
    registry.command("item.loose", subject="user")(Loose)
    assert registry.get("item.loose").validate(b'{"x":1}')


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"null", b"\xff", b'{"item":"\xff"}'])
def test_what_is_no_json_object_is_no_payload(registry: Registry, payload: bytes) -> None:
    with pytest.raises(InvalidPayload):
        registry.get("item.grant").validate(payload)


def test_registries_do_not_share(registry: Registry) -> None:
    assert Registry().types() == []


def test_a_plugin_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugin_that_imports.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins(["plugin_that_imports"])
    assert sys.modules.pop("plugin_that_imports")


@pytest.mark.parametrize("source", ["raise RuntimeError('boom')", "import no_such_module_anywhere", "def"])
def test_a_plugin_that_does_not_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (tmp_path / "broken_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Misconfigured, match="BRIDGE_PLUGINS names 'broken_plugin'"):
        load_plugins(["broken_plugin"])
