"""Settings: from the environment, refused with the name, the value and the remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from bridge.config import BridgeSettings, load
from bridge.errors import Misconfigured


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variables of the outside, and a place for an ``.env`` file."""
    for name in [name for name in os.environ if name.startswith("BRIDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BRIDGE_REDIS_URL", "unix:///tmp/x")
    monkeypatch.chdir(tmp_path)


def test_defaults_are_those_of_the_manual() -> None:
    settings = load(BridgeSettings)
    assert (settings.namespace, settings.shards, settings.lease_seconds) == ("chat", 64, 1.5)
    assert (settings.max_attempts, settings.max_deaths, settings.handler_seconds) == (5, 3, 10)
    assert (settings.backoff_seconds, settings.max_in_flight, settings.backlog_limit) == (0.2, 100, 10_000)
    assert (settings.outcome_seconds, settings.settled_length, settings.dead_length) == (3600, 10_000, 10_000)
    assert (settings.channel_length, settings.history_length, settings.allow_volatile) == (1000, 1000, False)


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SHARDS", "8")
    monkeypatch.setenv("BRIDGE_PLUGINS", "shop_commands, other ,")
    settings = load(BridgeSettings)
    assert (settings.shards, settings.plugins) == (8, ("shop_commands", "other"))


def test_an_env_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BRIDGE_SHARDS=4\n")
    assert load(BridgeSettings).shards == 4


def test_a_missing_url_names_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRIDGE_REDIS_URL")
    with pytest.raises(Misconfigured, match=r"BRIDGE_REDIS_URL is not set; .*embedded://PATH"):
        load(BridgeSettings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHARDS", "0"), ("SHARDS", "many"), ("LEASE_SECONDS", "0.1"), ("NAMESPACE", "a{b}"), ("MAX_DEATHS", "0"),
        ("HANDLER_SECONDS", "0"), ("BACKLOG_LIMIT", "-1"), ("ALLOW_VOLATILE", "perhaps"), ("LEASE_SECONDS", "nan"),
    ],
)  # fmt: skip
def test_an_impossible_value_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"BRIDGE_{name}", value)
    with pytest.raises(Misconfigured, match=f"BRIDGE_{name}='"):
        load(BridgeSettings)


def test_every_fault_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SHARDS", "0")
    monkeypatch.setenv("BRIDGE_MAX_DEATHS", "0")
    with pytest.raises(Misconfigured, match=r"BRIDGE_SHARDS[\s\S]*BRIDGE_MAX_DEATHS"):
        load(BridgeSettings)


def test_a_variable_that_nobody_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SHARD", "8")
    with pytest.raises(Misconfigured, match="unknown setting BRIDGE_SHARD;"):
        load(BridgeSettings)


def test_a_secret_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:secret@host\n")
    monkeypatch.setenv("BRIDGE_REDIS_URL", f"file:{tmp_path}/url")
    assert load(BridgeSettings).redis_url.get_secret_value() == "redis://:secret@host"


def test_a_secret_file_that_is_missing_is_named_and_nothing_secret_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_REDIS_URL", "file:/no/such/file")
    with pytest.raises(Misconfigured, match=r"BRIDGE_REDIS_URL=\*\*\*\*: .*cannot read /no/such/file"):
        load(BridgeSettings)


def test_the_url_is_never_shown() -> None:
    assert "tmp" not in repr(load(BridgeSettings))


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load(BridgeSettings).shards = 3  # type: ignore[misc]


def test_limits_of_handling_are_taken_from_the_settings() -> None:
    limits = load(BridgeSettings, max_attempts=2, max_deaths=4, backoff_seconds=1).limits
    assert (limits.attempts, limits.deaths, limits.backoff_s) == (2, 4, 1)
