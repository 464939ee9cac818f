"""Probes: does the process live, can it do its work, and its figures. They take no token."""

from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from backoffice.metrics import METRICS
from backoffice.routes import BRIDGE, DEADLINE_S, HISTORY, reply
from bridge.errors import BridgeError


async def alive(_request: web.Request) -> web.Response:
    return reply({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """Whether Redis answers; nodes may be missing, commands wait for them."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            await request.app[BRIDGE].ping()
    except (BridgeError, TimeoutError):
        return reply({"status": "unavailable", "checks": {"redis": "does not answer"}}, 503)
    share = request.app[HISTORY].progress.share  # searches answer meanwhile, with what is there
    history = "ok" if share == 1 else f"being rebuilt: {share:.0%}"
    return reply({"status": "ready", "checks": {"redis": "ok", "history": history}})


def add_to(app: web.Application) -> None:
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", make_aiohttp_handler(app[METRICS].registry))
