"""Overview: whether all is well, at a glance."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from backoffice.api import nodes, shards
from backoffice.routes import WATCH
from backoffice.times import time_of
from backoffice.ui.frame import Page, add_page
from backoffice.ui.words import N_

# Where one acts upon an alarm, by its code.
PLACES = {
    "no_redis": ("/system", N_("System")),
    "no_nodes": ("/nodes", N_("Nodes")),
    "no_holder": ("/nodes", N_("Nodes")),
    "nothing_handled": ("/shards", N_("Shards")),
    "oldest_age": ("/shards", N_("Shards")),
    "lag_growing": ("/shards", N_("Shards")),
    "pending": ("/shards", N_("Shards")),
    "dead_letters": ("/dead", N_("Dead letters")),
    "dead_letters_full": ("/dead", N_("Dead letters")),
    "node_gone": ("/nodes", N_("Nodes")),
}
RECENT = 60  # samples, a second each, among which the latest with a latency is shown


@dataclass(frozen=True, slots=True)
class Silent:
    """Nothing ended lately."""

    wait_p50_s: float | None = None
    wait_p99_s: float | None = None


async def show(page: Page) -> web.StreamResponse:
    watch = page.request.app[WATCH]
    sampler = watch.sampler
    latest = list(sampler.fine)[-RECENT:]
    return page.render(
        "overview.html",
        sample=latest[-1] if latest else None,
        fresh=sampler.fresh is not None,
        answered_at=time_of(int(sampler.answered_at * 1000)),
        waits=next((sample for sample in reversed(latest) if sample.wait_p50_s is not None), Silent()),
        nodes=sorted(map(nodes.view, sampler.nodes), key=lambda node: node.name),
        shards=shards.views(sampler.seen, page.bridge.shards) if latest else [],
        raised=[(alarm, time_of(int(alarm.since * 1000))) for alarm in watch.alarms.now],
        places=PLACES,
        topics="sample,nodes,shards,alarms",
    )


def add_to(app: web.Application) -> None:
    add_page(app, "/", show)
