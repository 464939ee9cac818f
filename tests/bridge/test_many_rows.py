"""Many rows a statement: all of them, in order, in few different statements."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from bridge.many_rows import in_statements

INSERT = "INSERT OR IGNORE INTO t (a, b) VALUES (?, ?)"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 63, 64, 65, 1000])
def test_all_rows_are_inserted_in_order(count: int) -> None:
    rows = [(number, f"row {number}") for number in range(count)]
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE t (a INTEGER UNIQUE, b TEXT)")
        for text, values in in_statements(INSERT, rows):
            database.execute(text, values)
        assert database.execute("SELECT a, b FROM t ORDER BY rowid").fetchall() == rows


def test_what_stands_behind_the_values_stays_there() -> None:
    [(text, values)] = in_statements("INSERT INTO t (a) VALUES (?) ON CONFLICT (a) DO NOTHING", [(1,), (2,)])
    assert (text, values) == ("INSERT INTO t (a) VALUES (?), (?) ON CONFLICT (a) DO NOTHING", (1, 2))


def test_few_statements_are_ever_made() -> None:
    texts = {text for count in range(500) for text, _ in in_statements(INSERT, [(1, "x")] * count)}
    assert len(texts) == 7
