"""``python -m tests.nemesis``: an interrupted run goes on, another one begins anew."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from tests.nemesis import __main__ as command
from tests.nemesis.__main__ import MINUTES, is_done, plan
from tests.nemesis.summary import Summary
from tests.nemesis.test_checkers import good


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(command, "KEPT", tmp_path)
    return tmp_path


def asked(seed: int | None = None, minutes: float | None = None, only: list[str] | None = None) -> Namespace:
    return Namespace(seed=seed, minutes=minutes, only=only)


def test_an_interrupted_run_goes_on_with_its_seed_and_results(kept: Path) -> None:
    assert plan(asked(seed=7)) == (7, MINUTES)
    (kept / "cluster-redis-7.0.json").touch()
    assert plan(asked()) == (7, MINUTES)
    assert (kept / "cluster-redis-7.0.json").exists()


def test_another_seed_forgets_the_results_of_the_one_before(kept: Path) -> None:
    plan(asked(seed=7, minutes=1))
    (kept / "cluster-redis-7.0.json").touch()
    assert plan(asked(seed=8)) == (8, 1)
    assert list(kept.iterdir()) == [kept / "plan.json"]


def test_one_combination_again_leaves_the_others(kept: Path) -> None:
    plan(asked(seed=7))
    (kept / "cluster-redis-7.0.json").touch()
    assert plan(asked(seed=8, only=["standalone"])) == (8, MINUTES)
    assert (kept / "cluster-redis-7.0.json").exists()
    assert plan(asked()) == (7, MINUTES)


def test_without_a_seed_every_run_has_its_own(kept: Path) -> None:
    first, _ = plan(asked())
    (kept / "plan.json").unlink()
    assert plan(asked())[0] != first


def test_only_results_of_this_plan_count_as_done(kept: Path) -> None:
    Summary.of(good(), "9.1.2").write(kept)
    os.utime(kept / "standalone-valkey-9.1.json", (1, 1))
    (kept / "plan.json").touch()
    assert not is_done("standalone/valkey-9.1", 1)
    Summary.of(good(), "9.1.2").write(kept)
    assert is_done("standalone/valkey-9.1", 1)
    assert not is_done("standalone/valkey-9.1", 2)
    assert not is_done("cluster/valkey-9.1", 1)
