"""A short run with a fixed schedule: all promises hold through two or three waves of faults."""

from __future__ import annotations

import pytest

from tests.figures import Figures, spread
from tests.nemesis.checkers import judge, recoveries
from tests.nemesis.run import SMALL, Run, deliveries, slowest
from tests.servers import DEFAULT_ENGINE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
SEED, SECONDS = 7, 30.0


async def test_everything_promised_holds_through_waves_of_faults(figures: Figures) -> None:
    run = Run("standalone", DEFAULT_ENGINE, SEED, SECONDS, scale=SMALL, abilities=())
    history = await run.run()
    figures.report(
        "nemesis: faults of everything under load of everything", faults=len(history.struck),
        commands=len(history.issued), said=len(history.said), deliveries=deliveries(history),
        recovery_s=spread(slowest(history)),
    )  # fmt: skip
    assert [verdict for verdict in judge(history) if not verdict.valid and verdict.checker != "recovery"] == []
    assert all(wave.seconds is not None for wave in recoveries(history))  # how soon is a matter of an idle machine
