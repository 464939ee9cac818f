"""What of the telemetry becomes a line of the log, and at which level."""

from __future__ import annotations

import logging
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
)
_QUIET: Final = (  # metrics count these
    telemetry.Read,
    telemetry.Started,
    telemetry.Settled,
    telemetry.Acquired,
    telemetry.Released,
)

log = structlog.get_logger("bridge")


def log_event(event: object) -> None:
    """A telemetry listener: what an operator wants to read of it."""
    if isinstance(event, _QUIET) or type(event).__module__ != telemetry.__name__:
        return
    fields = asdict(event)  # type: ignore[call-overload]
    level = logging.WARNING if isinstance(event, _WARNINGS) else logging.INFO
    log.log(level, type(event).__name__, **fields)
