"""Log lines of a service: one form, libraries' included, and never more than a screen of one kind in a second."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Final

import structlog
from structlog.typing import Processor

LINES_PER_S: Final = 20  # of one kind; the next line of it says how many were left out


class Sparing:
    """Drops what is said too often."""

    def __init__(self, *, lines_per_s: int = LINES_PER_S) -> None:
        self._most = lines_per_s
        self._seen: dict[str, tuple[int, int]] = {}  # event → second, lines in it

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name, second = str(event.get("event"))[:64], int(time.monotonic())
        then, lines = self._seen.get(name, (second, 0))
        if then != second:
            if lines > self._most:
                event["left_out"] = lines - self._most
            lines = 0
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[name] = (second, lines + 1)
        if lines >= self._most:
            raise structlog.DropEvent
        return event


def configure(*, as_json: bool | None = None, **always: str) -> None:
    """Everything that this process logs goes to standard error: JSON, or for people where ``as_json`` is None and they
    read it in a terminal. ``always`` is on every line."""
    if as_json is None:
        as_json = not sys.stderr.isatty()

    def add(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {**always, **event}  # context variables would not reach other threads

    shared: list[Processor] = [
        add,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        Sparing(),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("websockets").setLevel(logging.ERROR)
