"""The self-check: what this back office finds wrong with the servers and with itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from aiohttp import web

from backoffice.intake import NoQuery
from backoffice.operators import Role
from backoffice.routes import Call, Route, reply
from backoffice.times import time_of
from bridge.findings import Finding

FRESH_S = 5.0  # who asks again sooner gets the same answer


@dataclass(frozen=True, slots=True)
class FindingView:
    """One fault, and what to do about it."""

    severity: Literal["refuse", "warn", "unknown"]
    code: str
    message: str
    remedy: str
    server: str | None


@dataclass(frozen=True, slots=True)
class SelfCheckView:
    """All of them; ok: nothing is known to be wrong."""

    checked_at: datetime
    ok: bool
    findings: list[FindingView]


async def show(call: Call[NoQuery, None]) -> web.Response:
    """What is wrong with the servers, and what to do.

    Looked at anew, unless that was done within the last seconds.
    """
    check = call.bridge.self_check
    await check.fresh(FRESH_S)
    return reply(
        SelfCheckView(time_of(int(check.checked_at * 1000)), check.ok, [_view(finding) for finding in check.findings])
    )


def _view(finding: Finding) -> FindingView:
    severity: Literal["refuse", "warn", "unknown"] = finding.severity  # type: ignore[assignment]
    return FindingView(severity, finding.code, finding.message, finding.remedy, finding.server)


ROUTES = (Route("GET", "/self-check", show, Role.VIEWER, {200: SelfCheckView}),)
