"""Reads the audit chain: until everything that was done stands in it, or as it is in the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from backoffice.tables import audit
from bridge.chain import Entry
from tests.backoffice.service import Api
from tests.waiting import until


async def audited(api: Api, count: int, **query: str) -> list[dict[str, Any]]:
    """The ``count`` entries that fit, oldest first; results come a moment after the answer that they are about."""

    async def found() -> list[dict[str, Any]] | None:
        answer = await api.as_("admin").get(f"/audit?{urlencode({'limit': 500, **query})}")
        if answer.status == 503:  # the database is busy
            return None
        items: list[dict[str, Any]] = answer.json["items"]
        assert len(items) <= count, items
        return items[::-1] if len(items) == count else None

    return await until(found, what=f"{count} entries of the audit chain for {query}")


async def entries_of(connection: AsyncConnection) -> AsyncIterator[Entry]:
    """All entries, each chain in order, without loading them at once."""
    columns = [audit.c[name] for name in Entry._fields]
    result = await connection.stream(select(*columns).order_by(audit.c.chain, audit.c.seq))
    async for row in result:
        yield Entry(*row)
