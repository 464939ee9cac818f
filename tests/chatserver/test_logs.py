from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from bridge.telemetry import LostLease
from chatserver import logs
from chatserver.logs import log_event
from tests.waiting import until


async def test_leases_regained_in_a_burst_are_one_quiet_line_and_lost_ones_warnings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs._regained, "_wait_s", 0.05)
    with capture_logs() as lines:
        for shard in range(64):
            log_event(LostLease("node-a", shard, "the server restarted", regained=True))
        log_event(LostLease("node-a", 7, "fenced", regained=False))
        await until(lambda: len(lines) >= 2)
    lost, regained = lines
    assert (lost["event"], lost["log_level"], lost["shard"]) == ("LostLease", "warning", 7)
    assert (regained["event"], regained["log_level"], regained["leases"]) == ("Regained", "info", 64)
