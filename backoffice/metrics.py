"""What the back office counts, for Prometheus. No label has an unbounded set of values."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from backoffice.alarms import RULES
from backoffice.sampler import Sample
from bridge.client import Bridge
from bridge.findings import CODES
from bridge.self_check import count
from bridge.telemetry import Disconnected, JournalSetAside, NotReplayed, Replayed, Superseded

# Figures of the newest sample, under the names that they have there.
_FIGURES = {
    "backoffice_lag": ("lag", "Commands accepted and read by no node, where Redis answers"),
    "backoffice_pending": ("pending", "Commands read by a node and not ended, where Redis answers"),
    "backoffice_oldest_seconds": ("oldest_s", "Age of the oldest command that has not ended; 0: there is none"),
    "backoffice_dead_letters": ("dead", "Dead letters that were not sent again, where Redis answers"),
    "backoffice_live_nodes": ("live", "Chat nodes that are there"),
    "backoffice_unheld_shards": ("unheld", "Shards that no node is known to hold"),
}


class Metrics:
    """One set for each service in the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter("backoffice_requests", "Requests answered", ("method", "route", "status"),
                                 registry=self.registry)  # fmt: skip
        self._seconds = Histogram("backoffice_request_seconds", "Time until the answer was ready", ("method", "route"),
                                  registry=self.registry)  # fmt: skip
        self._connected = Gauge("backoffice_redis_connected", "1 while Redis is connected", registry=self.registry)
        self._lost = Counter("backoffice_redis_disconnects", "Lost connections to Redis", registry=self.registry)
        self._findings = Gauge("bridge_self_check_findings", "What the self-check finds wrong", ("severity", "code"),
                               registry=self.registry)  # fmt: skip
        self._rebuilt = Gauge("backoffice_history_rebuilt", "Share of the servers' records that the history has read",
                              registry=self.registry)  # fmt: skip
        replayed = Counter("backoffice_replayed", "Rows of the journal that a server had lost", ("result",),
                           registry=self.registry)  # fmt: skip
        self._replayed = {result: replayed.labels(result) for result in ("put_back", "superseded", "failed")}
        self._hashes = Counter("backoffice_password_hashes", "Passwords hashed, each some 0.1 s of a core",
                               registry=self.registry)  # fmt: skip
        # Looking labels up costs more than counting: one request in many has a new combination.
        self._known: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; ``route`` is method and path as registered, or "none" for what no route took."""
        known = self._known.get((route, status))
        if known is None:
            method, _, path = route.rpartition(" ")
            known = self._requests.labels(method, path, str(status)), self._seconds.labels(method, path)
            self._known[route, status] = known
        known[0].inc()
        known[1].observe(seconds)

    def hashed(self) -> None:
        self._hashes.inc()

    def listen(self, event: Any) -> None:
        """A listener of the bridge's telemetry."""
        match event:
            case Disconnected():
                self._lost.inc()
            case Replayed(put_back=put_back):
                self._replayed["put_back"].inc(put_back)
            case Superseded():
                self._replayed["superseded"].inc()
            case NotReplayed():
                self._replayed["failed"].inc()
            case JournalSetAside(rows=rows):
                self._replayed["failed"].inc(rows)

    def watch(self, bridge: Bridge, rebuilt: Callable[[], float]) -> None:
        """Ask this bridge, and how much of the history there is, whenever somebody asks us."""
        self._rebuilt.set_function(rebuilt)
        self._connected.set_function(lambda: bridge.redis.connected)
        for severity, code in CODES:
            labelled = self._findings.labels(severity, code)
            labelled.set_function(partial(count, bridge.self_check, severity, code))

    def figures(self, newest: Callable[[], Sample | None], is_raised: Callable[[str], bool]) -> None:
        """Ask what is known of everything now, and for each alarm whether it is on, whenever somebody asks us."""
        for name, (figure, text) in _FIGURES.items():
            gauge = Gauge(name, text, registry=self.registry)
            gauge.set_function(partial(_figure, newest, figure))
        alarms = Gauge("backoffice_alarm", "1 while the alarm is on", ("code", "severity"), registry=self.registry)
        for rule in RULES:
            alarms.labels(rule.code, rule.severity).set_function(partial(is_raised, rule.code))


def _figure(newest: Callable[[], Sample | None], name: str) -> float:
    """Not a number where it is not known."""
    sample = newest()
    value = None if sample is None else getattr(sample, name)
    if value is None and sample is not None and name == "oldest_s" and sample.unknown == 0:
        return 0.0
    return math.nan if value is None else float(value)


METRICS = web.AppKey("metrics", Metrics)
