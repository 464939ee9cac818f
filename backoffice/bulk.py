"""Many rows of a table at once: what SQLAlchemy makes of each row of such a list costs more than the database does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Table
from sqlalchemy.dialects import postgresql, sqlite

from bridge.many_rows import in_statements


class Insert:
    """Rows of these columns; the others keep what they have, or are NULL.

    ``over`` is the column of the table's key: a row that has the key already gets the new values, or with ``keep``
    stays as it is. Without ``over`` a row that is there already is an error.
    """

    def __init__(self, table: Table, columns: Sequence[str], *, over: str | None = None, keep: bool = False) -> None:
        self._table, self._columns, self._over, self._keep = table, tuple(columns), over, keep
        self._statements: dict[str, str] = {}

    def write(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Each row has the columns' values in order. Raises DBAPIError."""
        if not rows:
            return
        dialect = connection.dialect
        statement = self._statements.get(dialect.name)
        if statement is None:
            statement = self._statements[dialect.name] = self._compile(dialect)
        if dialect.name == "postgresql":  # its driver sends them all in one go
            connection.exec_driver_sql(statement, list(rows))
            return
        for text, values in in_statements(statement, rows):
            connection.exec_driver_sql(text, values)

    def _compile(self, dialect: Dialect) -> str:
        insert: Any = (postgresql if dialect.name == "postgresql" else sqlite).insert(self._table)
        if self._over is not None and self._keep:
            insert = insert.on_conflict_do_nothing(index_elements=[self._over])
        elif self._over is not None:
            changes = {name: insert.excluded[name] for name in self._columns if name != self._over}
            insert = insert.on_conflict_do_update(index_elements=[self._over], set_=changes)
        compiled = insert.compile(dialect=dialect, column_keys=self._columns)
        # The values are in the table's order, whatever the order of the keys.
        assert compiled.positiontup == list(self._columns), f"write the columns as {compiled.positiontup}"
        return str(compiled)
