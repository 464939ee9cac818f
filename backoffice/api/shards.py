"""Shards: who reads each, how much waits there, and what is under way."""

from __future__ import annotations

import re

from aiohttp import web

from backoffice.operators import Role
from backoffice.paging import Paged, bad_cursor, cursor_of, cut, page
from backoffice.problems import not_found
from backoffice.routes import Call, ListOf, Route, reply
from bridge.inspector import PendingEntry, ShardInfo

_ENTRY_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}", re.ASCII)


async def listing(call: Call[Paged, None]) -> web.Response:
    """All shards, by number."""
    infos = sorted(await call.bridge.shard_infos(), key=lambda info: info.shard)
    return reply(cut(infos, call.query, lambda info: info.shard, int))


async def pending(call: Call[Paged, None]) -> web.Response:
    """What nodes have read and not settled yet, oldest first."""
    number = call.part("shard")
    if not number.isascii() or not number.isdigit() or len(number) > 4 or int(number) >= call.bridge.shards:
        raise not_found(f"shard {number[:80]!r}; there are {call.bridge.shards}, from 0 on")
    after = call.query.after(str)
    if after is not None and not _ENTRY_ID.fullmatch(after):
        raise bad_cursor()
    found = await call.bridge.inspector.pending(int(number), call.query.limit, after)
    return reply(page(found.entries, None if found.next is None else cursor_of(found.next)))


ROUTES = (
    Route("GET", "/shards", listing, Role.VIEWER, {200: ListOf(ShardInfo)}, query=Paged),
    Route("GET", "/shards/{shard}/pending", pending, Role.VIEWER, {200: ListOf(PendingEntry)}, query=Paged,
          problems=("not_found",)),
)  # fmt: skip
