"""What of the telemetry becomes a line of the log, and at which level."""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict
from typing import Final

import structlog

from bridge import telemetry

_WARNINGS: Final = (
    telemetry.Disconnected,
    telemetry.LostLease,
    telemetry.Retried,
    telemetry.Buried,
    telemetry.DeadLettersDropped,
    telemetry.StepFailed,
    telemetry.FaultFound,
    telemetry.Vanished,
)
_QUIET: Final = (  # metrics count these
    telemetry.Read,
    telemetry.Started,
    telemetry.Settled,
    telemetry.Acquired,
    telemetry.Released,
)

BURST_S: Final = 2.0  # leases that are regained within it are told together

log = structlog.get_logger("bridge")


class _Regained:
    """Leases lost and had again, of a whole burst in one line: after a restart of the server that is every shard."""

    def __init__(self, wait_s: float = BURST_S) -> None:
        self._wait_s, self._leases, self._lock = wait_s, 0, threading.Lock()

    def add(self, node: str) -> None:
        with self._lock:
            self._leases += 1
            if self._leases > 1:
                return
        timer = threading.Timer(self._wait_s, self._tell, (node,))
        timer.daemon = True
        timer.start()

    def _tell(self, node: str) -> None:
        with self._lock:
            leases, self._leases = self._leases, 0
        log.info("Regained", node=node, leases=leases)


_regained = _Regained()


def log_event(event: object) -> None:
    """A telemetry listener: what an operator wants to read of it."""
    if isinstance(event, _QUIET) or type(event).__module__ != telemetry.__name__:
        return
    if isinstance(event, telemetry.LostLease) and event.regained:
        _regained.add(event.node)
        return
    fields = asdict(event)  # type: ignore[call-overload]
    level = logging.WARNING if isinstance(event, _WARNINGS) else logging.INFO
    log.log(level, type(event).__name__, **fields)
