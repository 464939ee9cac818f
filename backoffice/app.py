"""The composition root: settings in, an application out."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import structlog
from aiohttp import web

from backoffice import openapi
from backoffice.access import REFRESH_S, Access
from backoffice.api import (
    alarms,
    broadcasts,
    chat_token,
    command_views,
    commands,
    dead_letters,
    export,
    health,
    home,
    live,
    nodes,
    operators,
    rooms,
    sanctions,
    search,
    self_check,
    session,
    shards,
    tokens,
    users,
)
from backoffice.api import (
    audit as audit_api,
)
from backoffice.audit import Audit
from backoffice.config import BackofficeSettings
from backoffice.history import STEP_S as HISTORY_S
from backoffice.history import History
from backoffice.metrics import METRICS, Metrics
from backoffice.passwords import Passwords
from backoffice.people import FIRST_ADMIN, People
from backoffice.records import Records
from backoffice.routes import (
    ACCESS,
    AUDIT,
    BRIDGE,
    DEADLINE_S,
    HISTORY,
    LOGINS,
    PREFIX,
    RECORDS,
    REFUSED_READS,
    STOPPING,
    STRANGERS,
    WATCH,
    Route,
    apart,
    bind,
)
from backoffice.sampler import STEP_S as WATCH_S
from backoffice.throttle import Allowance, Logins, Throttle
from backoffice.ui import site
from backoffice.watch import Views, Watch
from bridge.client import Bridge
from bridge.clock import every
from bridge.config import BridgeSettings
from bridge.findings import REFUSE, UNKNOWN, WARN
from bridge.registry import Registry, default
from bridge.telemetry import (
    Connected,
    Disconnected,
    FaultCleared,
    FaultFound,
    JournalSetAside,
    NotReplayed,
    PlacementChanged,
    Replayed,
    StepFailed,
    Superseded,
    Telemetry,
)

Announce = Callable[[str, str], None]
log = structlog.get_logger(__name__)
_LEVELS = {REFUSE: logging.ERROR, WARN: logging.WARNING, UNKNOWN: logging.INFO}  # of findings

RESOURCES = (commands, search, broadcasts, nodes, shards, dead_letters, rooms, users, sanctions, alarms, live, export,
             self_check, session, operators, tokens, audit_api)  # fmt: skip


def make_app(
    settings: BackofficeSettings,
    bridge: BridgeSettings,
    *,
    registry: Registry = default,
    telemetry: Telemetry | None = None,
    announce: Announce | None = None,
) -> web.Application:
    """An application that connects to Redis when it starts. Importing this registers the chat vocabulary.

    ``announce`` is told name and one-time password of the first admin, where the database knows nobody yet.
    """
    app = web.Application()
    events = telemetry or Telemetry()
    app[METRICS], app[STOPPING] = Metrics(), asyncio.Event()
    app[live.STREAMS], app[export.EXPORTS] = Counter(), Counter()
    app[LOGINS], app[STRANGERS] = Logins(Throttle()), Allowance(per_s=1, at_once=100)
    app[REFUSED_READS] = Allowance(per_s=1, at_once=100)
    described = routes(settings)
    described = (*described, openapi.route(described, registry))
    for route in described:
        path = PREFIX + apart(route.path, described)
        if route.method == "GET":
            app.router.add_get(path, bind(route, app))  # takes HEAD as well
        else:
            app.router.add_route(route.method, path, bind(route, app))
    health.add_to(app)
    home.add_to(app)
    site.add_to(app, settings)

    async def stop(app: web.Application) -> None:
        app[STOPPING].set()

    app.cleanup_ctx.append(partial(_recorded, settings, events, announce))
    app.cleanup_ctx.append(partial(_connected, bridge, registry, events))
    app.on_shutdown.append(stop)
    return app


async def _recorded(
    settings: BackofficeSettings, events: Telemetry, announce: Announce | None, app: web.Application
) -> AsyncIterator[None]:
    """The back office's own database, and what lives on it."""
    async with (
        Records.open(settings.database_url.get_secret_value()) as records,
        Passwords.open(app[METRICS].hashed) as passwords,
    ):
        people = People(records, passwords, settings.tokens.names)
        access = Access(settings.tokens, people, settings.proxies)
        app[RECORDS], app[ACCESS], app[AUDIT] = records, access, Audit(records, settings.name)
        await access.step()
        given = settings.admin_password
        password = await people.first_admin(None if given is None else given.get_secret_value())
        if password is not None and announce is not None:
            announce(FIRST_ADMIN, password)
        if shared := await people.shared_names():
            log.warning("operators and tokens share names: nobody can tell who did what; rename the tokens",
                        names=shared)  # fmt: skip
        refreshing = every(REFRESH_S, access.step, name="tokens", telemetry=events)
        async with _running(app[AUDIT].run(), refreshing):
            yield


async def _connected(
    settings: BridgeSettings, registry: Registry, events: Telemetry, app: web.Application
) -> AsyncIterator[None]:
    """The bridge, and the history that it feeds."""
    stops = [events.listen(app[METRICS].listen, inline=True), events.listen(_log)]
    async with Bridge.connect(settings, registry=registry, telemetry=events, timeout=DEADLINE_S) as bridge:
        views = Views(command_views.plain, nodes.view, shards.views, alarms.view, nodes.gone, alarms.cleared)
        watch = Watch(bridge, views)
        history = History(app[RECORDS], bridge, ended=watch.ended)
        app[BRIDGE], app[HISTORY], app[WATCH] = bridge, history, watch
        app[METRICS].watch(bridge, lambda: history.progress.share)
        app[METRICS].figures(lambda: watch.sampler.fresh, watch.alarms.is_raised)
        stops.append(events.listen(partial(_reread, history), inline=True))
        feeding = every(HISTORY_S, history.step, name="history", telemetry=events)
        watching = every(WATCH_S, watch.step, name="watch", telemetry=events)
        async with _running(feeding, watching):
            yield
        await history.close()
    for stop in stops:
        stop()


@asynccontextmanager
async def _running(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work) for work in works]
    for task in tasks:
        task.add_done_callback(_check_end)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_end(task: asyncio.Task[None]) -> None:
    """None of them ends by itself."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a task of the back office ended", task=str(task.get_coro()), exc_info=error)


def _reread(history: History, event: object) -> None:
    if isinstance(event, Connected | PlacementChanged):
        history.reread()


def _log(event: object) -> None:
    """Lost and found connections, and what came of a fail-over; what a single request met is in its answer."""
    match event:
        case Disconnected(server=server, cause=cause):
            log.warning("disconnected", server=server, cause=cause)
        case Connected(server=server):
            log.info("connected", server=server)
        case StepFailed(name=name, cause=cause):
            log.warning("step failed", step=name, cause=cause)
        case FaultFound():
            log.log(_LEVELS[event.severity], "self-check", **asdict(event))
        case FaultCleared(severity=severity, code=code, server=server):
            log.info("self-check: cleared", severity=severity, code=code, server=server)
        case Replayed(shard=shard, put_back=put_back) if put_back:
            log.warning("lost commands were put back", shard=shard, commands=put_back, took_s=round(event.took_s, 3))
        case Superseded(shard=shard, id=id, subject=subject):
            log.error(
                "a lost command is a dead letter: its subject has had later ones", id=id, shard=shard, subject=subject
            )
        case JournalSetAside():
            log.error("Redis is not what it was; what its journal has is not put back there", **asdict(event))
        case NotReplayed(operation=operation, id=id, cause=cause):
            log.error("a lost operation was not done again", operation=operation, id=id, cause=cause)


def routes(settings: BackofficeSettings) -> tuple[Route, ...]:
    """Every route below /api/v1 but the document that describes them."""
    found = [route for resource in RESOURCES for route in resource.ROUTES]
    if settings.demo_chat_key is not None:
        found += chat_token.routes(settings.demo_chat_key.get_secret_value())
    return tuple(found)
