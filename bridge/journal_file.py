"""A journal's file: whose it is, what its tables look like, and how it goes."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

MAX_FILES = 1000
SCHEMA = 1
COLUMNS = "shard, incarnation, at, operation, id, subject, caller, key, body, origin, letter, extra, fields, place"
INSERT = f"INSERT OR IGNORE INTO accepted ({COLUMNS}) VALUES ({', '.join('?' * 14)})"
_TABLES = f"""
CREATE TABLE IF NOT EXISTS owner (publisher TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS accepted (
  number INTEGER PRIMARY KEY, shard INTEGER NOT NULL, incarnation TEXT NOT NULL, at REAL NOT NULL,
  operation TEXT NOT NULL, id TEXT NOT NULL, subject TEXT NOT NULL, caller TEXT NOT NULL, key TEXT NOT NULL,
  body TEXT NOT NULL, origin TEXT NOT NULL, letter TEXT NOT NULL, extra BLOB NOT NULL, fields BLOB NOT NULL,
  place REAL NOT NULL, UNIQUE (operation, id)
);
CREATE INDEX IF NOT EXISTS in_order ON accepted (shard, place, number, incarnation);
CREATE INDEX IF NOT EXISTS withdrawn ON accepted (shard, place, number) WHERE operation IN ('cancel', 'discard');
CREATE INDEX IF NOT EXISTS repeated ON accepted (origin) WHERE origin != '';
PRAGMA user_version = {SCHEMA};
"""
_FROM_0 = """
ALTER TABLE accepted ADD COLUMN place REAL NOT NULL DEFAULT 0;
UPDATE accepted SET place = at;
DROP INDEX by_shard;
"""


def take(directory: Path, installation: str) -> tuple[Path, int]:
    """The lowest-numbered file that nobody has, and its lock. Raises OSError."""
    for number in range(MAX_FILES):
        path = directory / f"{installation}-{number}.sqlite"
        held = lock(path)
        if held is not None:
            return path, held
    raise OSError(f"{MAX_FILES} processes use it")


def lock(path: Path) -> int | None:
    """A lock that ends with the process; None: somebody has it. Its file stays: two must not lock different ones."""
    held = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def database(path: Path) -> sqlite3.Connection:
    """Made if it lacks, brought up to this version if it is older. Raises sqlite3.Error, OSError."""
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        path.chmod(0o600)  # payloads are in it
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is an fsync
        _bring_up(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA:
        raise sqlite3.DatabaseError(f"a later version wrote it (schema {version}, not {SCHEMA})")
    older = version == 0 and connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'accepted'").fetchone()
    connection.executescript(f"BEGIN;{_FROM_0 if older else ''}{_TABLES}COMMIT;")


def remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
