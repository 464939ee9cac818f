"""What somebody should look at now, and the figures of the last hours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from aiohttp import web
from pydantic import Field

from backoffice.alarms import Alarm
from backoffice.intake import Query
from backoffice.operators import Role
from backoffice.paging import Paged, cut
from backoffice.routes import WATCH, Call, ListOf, Route, reply
from backoffice.sampler import Sample
from backoffice.times import time_of


@dataclass(frozen=True, slots=True)
class AlarmView:
    """One thing to look at; it clears by itself."""

    code: str
    severity: Literal["warning", "critical"]
    since: datetime
    message: str
    remedy: str


class SeriesQuery(Query):
    """Which figures."""

    span: Literal["minutes", "hours"] = Field("minutes", description="15 minutes by the second, or 6 hours by ten")


@dataclass(frozen=True, slots=True)
class Series:
    """One column a figure; the same place in each is the same moment."""

    at: list[float]  # seconds since the epoch
    rate: list[float | None]  # null: the primary that knows the nodes did not answer
    lag: list[int]
    pending: list[int]
    oldest_s: list[float | None]
    dead: list[int]
    clients: list[int | None]
    wait_p50_s: list[float | None]
    wait_p99_s: list[float | None]


async def listing(call: Call[Paged, None]) -> web.Response:
    """Alarms there are now: critical ones first, then the oldest."""
    alarms = sorted(map(view, call.request.app[WATCH].alarms.now), key=_place)
    return reply(cut(alarms, call.query, _place, str))


async def series(call: Call[SeriesQuery, None]) -> web.Response:
    """Figures of the last minutes or hours, since this back office started."""
    sampler = call.request.app[WATCH].sampler
    return reply(columns(sampler.fine if call.query.span == "minutes" else sampler.coarse))


def view(alarm: Alarm) -> AlarmView:
    """An alarm as the API tells it."""
    return AlarmView(alarm.code, alarm.severity, time_of(int(alarm.since * 1000)), alarm.message, alarm.remedy)


def _place(alarm: AlarmView) -> str:
    return f"{alarm.severity} {alarm.since.isoformat(timespec='milliseconds')} {alarm.code}"  # critical comes first


def cleared(alarm: AlarmView) -> dict[str, Any]:
    """How it is told that an alarm has cleared."""
    return asdict(alarm) | {"cleared_at": datetime.now(UTC)}


def columns(samples: Iterable[Sample]) -> Series:
    rows = list(samples)
    return Series(*([getattr(row, name) for row in rows] for name in Series.__slots__))


ROUTES = (
    Route("GET", "/alarms", listing, Role.VIEWER, {200: ListOf(AlarmView)}, query=Paged),
    Route("GET", "/series", series, Role.VIEWER, {200: Series}, query=SeriesQuery),
)
