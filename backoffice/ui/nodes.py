"""Nodes: who is there, what each has, and draining one."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from backoffice.api import nodes
from backoffice.paging import Paged
from backoffice.ui.acts import Act, call
from backoffice.ui.frame import Page, add_page, query_of


async def show(page: Page) -> web.StreamResponse:
    found = await page.ask(nodes.listing, query_of(Paged, {"limit": 500}))
    return page.render(
        "nodes.html", nodes=found["items"], act=lambda node: _drain(page, node), topics="nodes,alarms"
    )  # fmt: skip


def _drain(page: Page, node: dict[str, Any]) -> Act | None:
    words, name = page.words, node["name"]
    if node["state"] == "draining":
        return call(page, words("Take up again"), words("Let {node} take shards and clients again?", node=name),
                    "DELETE", f"/nodes/{name}/drain")  # fmt: skip
    if node["state"] == "live":
        sentence = words("{node} hands {n} shards and {clients} clients over and takes no new ones.", node=name,
                         n=len(node["shards"]), clients=node["sessions"])  # fmt: skip
        return call(page, words("Drain"), sentence, "POST", f"/nodes/{name}/drain", danger=True)
    return None


def add_to(app: web.Application) -> None:
    add_page(app, "/nodes", show)
