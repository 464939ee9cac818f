"""Nodes: who is there, and draining one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from aiohttp import web

from backoffice.intake import NoQuery
from backoffice.operators import Role
from backoffice.paging import Paged, cut
from backoffice.problems import not_found
from backoffice.routes import Call, Deed, ListOf, Route, reply
from bridge.client import Bridge
from bridge.envelope import NODE_NAME
from bridge.inspector import NodeInfo


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as its last heartbeat described it."""

    name: str
    boot: str
    version: str
    url: str
    state: Literal["live", "draining", "dead"]
    heartbeat_age_s: float
    shards: list[int]
    sessions: int
    rooms: int
    types: list[str]
    lag: int  # commands of its shards that nobody has read yet


async def listing(call: Call[Paged, None]) -> web.Response:
    """Nodes that are there or were until lately, by name."""
    nodes = sorted(map(view, await call.bridge.nodes()), key=lambda node: node.name)
    return reply(cut(nodes, call.query, lambda node: node.name, str))


async def drain(call: Call[NoQuery, None]) -> web.Response:
    """Have a node hand its shards and clients over, and take no new ones."""
    return await _drain(call, on=True)


async def undrain(call: Call[NoQuery, None]) -> web.Response:
    """Let a drained node take shards and clients again."""
    return await _drain(call, on=False)


async def _drain(call: Call[NoQuery, None], *, on: bool) -> web.Response:
    name = call.part("name")
    if not NODE_NAME.fullmatch(name):
        raise not_found(f"node {name[:80]!r}")
    async with call.audited(Deed("nodes.drain" if on else "nodes.undrain", f"node:{name}")):
        await call.bridge.drain(name, on, by=call.caller.name)
    return reply(await _find(call.bridge, name))


async def _find(bridge: Bridge, name: str) -> NodeView:
    for node in await bridge.nodes():
        if node.name == name:
            return view(node)
    raise not_found(f"node {name!r}")


def view(node: NodeInfo) -> NodeView:
    """A node as the API tells it."""
    state: Any = node.state
    sessions, rooms = (0, 0) if node.state == "dead" else (node.sessions, node.rooms)  # what it had went with it
    return NodeView(node.name, node.boot, node.version, node.url, state, node.heartbeat_age_s, node.shards,
                    sessions, rooms, node.types, node.lag)  # fmt: skip


def gone(node: NodeView) -> dict[str, Any]:
    """How it is told that a node is in the list no more."""
    left = {"state": "dead", "shards": [], "sessions": 0, "rooms": 0, "lag": 0}
    return asdict(node) | left | {"gone_at": datetime.now(UTC)}


ROUTES = (
    Route("GET", "/nodes", listing, Role.VIEWER, {200: ListOf(NodeView)}, query=Paged),
    Route("POST", "/nodes/{name}/drain", drain, Role.OPERATOR, {200: NodeView}, problems=("not_found",)),
    Route("DELETE", "/nodes/{name}/drain", undrain, Role.OPERATOR, {200: NodeView}, problems=("not_found",)),
)
