"""Shards: who reads each, how much waits there, and what is under way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from backoffice.operators import Role
from backoffice.paging import Paged, bad_cursor, cursor_of, cut, page
from backoffice.problems import not_found
from backoffice.routes import Call, ListOf, Route, reply
from bridge.inspector import Look, PendingEntry

_ENTRY_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ShardView:
    """A shard as its primary knows it; while that does not answer, only its number is known."""

    shard: int
    holder: str | None  # a node's name
    epoch: int | None
    length: int | None  # accepted and not ended
    lag: int | None  # of these, not yet read
    pending: int | None  # of these, read
    oldest_age_s: float | None
    dead: int | None
    handled_per_s: float | None  # null as well while nobody knows the nodes


async def listing(call: Call[Paged, None]) -> web.Response:
    """All shards, by number."""
    found = views(await call.bridge.inspector.look(), call.bridge.shards)
    return reply(cut(found, call.query, lambda each: each.shard, int))


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


def views(look: Look, shards: int) -> list[ShardView]:
    """So many shards as the API tells them."""
    return [_view(look, shard) for shard in range(shards)]


def _view(look: Look, shard: int) -> ShardView:
    facts: dict[str, Any] = dict.fromkeys(ShardView.__slots__) | {"shard": shard}
    if (info := look.shards.get(shard)) is not None:
        facts = {name: getattr(info, name) for name in facts}
    if look.nodes is None:
        facts["handled_per_s"] = None
    return ShardView(**facts)


ROUTES = (
    Route("GET", "/shards", listing, Role.VIEWER, {200: ListOf(ShardView)}, query=Paged),
    Route("GET", "/shards/{shard}/pending", pending, Role.VIEWER, {200: ListOf(PendingEntry)}, query=Paged,
          problems=("not_found",)),
)  # fmt: skip
