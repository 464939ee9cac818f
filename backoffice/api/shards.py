"""Shards: who reads each, how much waits there, and what is under way."""

from __future__ import annotations

from aiohttp import web

from backoffice.operators import Role
from backoffice.paging import Limited, Paged, cut, page
from backoffice.problems import not_found
from backoffice.routes import Call, ListOf, Route, reply
from bridge.inspector import PendingEntry, ShardInfo


async def listing(call: Call[Paged, None]) -> web.Response:
    """All shards, by number."""
    infos = sorted(await call.bridge.shard_infos(), key=lambda info: info.shard)
    return reply(cut(infos, call.query, lambda info: info.shard, int))


async def pending(call: Call[Limited, None]) -> web.Response:
    """What nodes have read and not settled yet, oldest first: on one page, as nodes read no more."""
    number = call.part("shard")
    if not number.isascii() or not number.isdigit() or len(number) > 4 or int(number) >= call.bridge.shards:
        raise not_found(f"shard {number[:80]!r}; there are {call.bridge.shards}, from 0 on")
    return reply(page(await call.bridge.pending(int(number), call.query.limit)))


ROUTES = (
    Route("GET", "/shards", listing, Role.VIEWER, {200: ListOf(ShardInfo)}, query=Paged),
    Route("GET", "/shards/{shard}/pending", pending, Role.VIEWER, {200: ListOf(PendingEntry)}, query=Limited,
          problems=("not_found",)),
)  # fmt: skip
