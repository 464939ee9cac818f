"""``python -m tests.nemesis``: an interrupted run goes on, another one begins anew."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from tests.nemesis import __main__ as command
from tests.nemesis.__main__ import MINUTES, plan


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
    plan(asked(seed=8, only=["standalone"]))
    assert (kept / "cluster-redis-7.0.json").exists()


def test_without_a_seed_every_run_has_its_own(kept: Path) -> None:
    first, _ = plan(asked())
    (kept / "plan.json").unlink()
    assert plan(asked())[0] != first
