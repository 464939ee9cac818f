"""Probes: does the process live, can it do its work, and its figures. They take no token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from backoffice.metrics import METRICS
from backoffice.routes import AUDIT, BRIDGE, DEADLINE_S, HISTORY, RECORDS, reply
from bridge.errors import BridgeError


async def alive(_request: web.Request) -> web.Response:
    return reply({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """Whether Redis and the database answer, and the audit chain is written; nodes may be missing, commands wait."""
    app = request.app
    redis, database = await asyncio.gather(_answers(app[BRIDGE].ping()), _answers(app[RECORDS].check()))
    checks = {"redis": redis, "database": database, "audit": "has stopped" if app[AUDIT].ended else "ok"}
    if any(said != "ok" for said in checks.values()):
        return reply({"status": "unavailable", "checks": checks}, 503)
    share = app[HISTORY].progress.share  # searches answer meanwhile, with what is there
    history = "ok" if share == 1 else f"being rebuilt: {share:.0%}"
    return reply({"status": "ready", "checks": {**checks, "history": history}})


async def _answers(asking: Awaitable[object]) -> str:
    try:
        async with asyncio.timeout(DEADLINE_S):
            await asking
    except (BridgeError, TimeoutError):
        return "does not answer"
    return "ok"


def add_to(app: web.Application) -> None:
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", make_aiohttp_handler(app[METRICS].registry))
