"""Which index a search for several things is read along.

SQLite does not know how many rows have a value: of several indexes that fit it takes the one made last, which may lead
through most of the table. PostgreSQL keeps count, and is left to choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Table
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


def equal(table: Table, given: Mapping[str, str]) -> list[ColumnElement[bool]]:
    """Conditions by column; the first column should be the one with the fewest rows of a value."""
    columns = [table.c[name] if place == 0 else _Aside(table.c[name]) for place, name in enumerate(given)]
    return [column == value for column, value in zip(columns, given.values(), strict=True)]


class _Aside(FunctionElement[Any]):
    """A column along whose index SQLite does not read."""

    inherit_cache = True


@compiles(_Aside)
def _as_it_is(aside: _Aside, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(aside.clauses, **options)


@compiles(_Aside, "sqlite")
def _with_a_sign(aside: _Aside, compiler: SQLCompiler, **options: Any) -> str:
    """An operator that does nothing, and that no index has (sqlite.org/optoverview.html, section 2)."""
    return f"+{compiler.process(aside.clauses, **options)}"
