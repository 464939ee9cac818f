"""Commands into the history's table: all but those that the database will not take."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection

from backoffice.bulk import Insert
from backoffice.history_rows import ENDED, POSITIONS, in_order, is_of_values, links, rows, write_links
from backoffice.records import Records, RecordsUnavailable
from bridge.record import Outcome

log = structlog.get_logger(__name__)


class Writer:
    """Rows, and the links between those that repeat each other. Everything raises RecordsUnavailable."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def write_ended(self, outcomes: Sequence[Outcome], last_read: dict[int, str]) -> None:
        """The rows, and then or with them how far the records were read."""
        written, places = rows(outcomes), in_order(last_read.items())

        def write(connection: Connection) -> None:
            ENDED.write(connection, written)
            POSITIONS.write(connection, places)

        if not links(outcomes):
            try:
                await self._records.transact(write)
                return
            except RecordsUnavailable as error:
                if not is_of_values(error.__cause__):
                    raise
        await self.write(ENDED, outcomes)
        await self._records.transact(partial(POSITIONS.write, rows=places))

    async def write(self, insert: Insert, outcomes: Sequence[Outcome]) -> None:
        await self._write_rows(insert, rows(outcomes))
        # By themselves: with rows in one transaction they would be out of order, and two back offices wait in a circle.
        if repeated := links(outcomes):
            await self._records.transact(partial(write_links, links=repeated))

    async def _write_rows(self, insert: Insert, rows: Sequence[tuple[Any, ...]]) -> None:
        """All but those that the database will not take; which ones these are, halves tell."""
        if not rows:
            return
        try:
            await self._records.transact(partial(insert.write, rows=rows))
        except RecordsUnavailable as error:
            if not is_of_values(error.__cause__):
                raise
            if len(rows) == 1:
                log.error("a command cannot be kept in the history", id=rows[0][0], cause=str(error))
                return
            middle = len(rows) // 2
            await self._write_rows(insert, rows[:middle])
            await self._write_rows(insert, rows[middle:])
