"""A real PostgreSQL for tests: one server for each test process, a database of its own for each test."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from bridge import guard
from tests.servers import Missing, temporary
from tests.waiting import block_until

PROGRAMS = ("initdb", "postgres", "createdb", "pg_isready")
USER = "postgres"  # PostgreSQL refuses to run as root
SETTINGS = {"listen_addresses": "", "fsync": "off", "synchronous_commit": "off", "max_connections": "200",
            "shared_buffers": "16MB", "max_wal_size": "64MB", "min_wal_size": "32MB",
            "logging_collector": "off", "autovacuum": "off"}  # fmt: skip


def binaries() -> Path:
    """Where initdb and postgres are. Raises Missing with what to install."""
    on_path = shutil.which("initdb")
    places = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        *([Path(on_path).parent] if on_path else ()),
    ]
    for place in places:
        if all((place / program).exists() for program in PROGRAMS):
            return place
    raise Missing("no PostgreSQL; on Debian: apt-get install postgresql")


def _watched() -> list[str]:
    """It ends with this process; by a pipe, as the kernel forgets its promise to a program that changes its user."""
    return [sys.executable, "-I", "-S", guard.__file__, "pipe"]


_shared: set[int] = set()  # processes of servers that run


def processes() -> set[int]:
    """All processes of the servers that tests share now."""
    found: set[int] = set()
    for pid in _shared:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    return found


class Postgres:
    """On a unix socket in a directory of its own; ends with this process."""

    def __init__(self) -> None:
        self._bin, self._names = binaries(), itertools.count()
        self.directory = temporary("postgres-")
        self._as = USER if os.getuid() == 0 else None
        if self._as:
            os.chown(self.directory, pwd.getpwnam(USER).pw_uid, -1)
        data = self.directory / "data"
        self._run("initdb", "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8")
        options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(data), "-k", str(self.directory), *options]
        switch = ["/usr/sbin/runuser", "-u", USER, "--"] if self._as else []
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*_watched(), *switch, *command],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        _shared.add(self._process.pid)
        block_until(self._answers, timeout=60, what="PostgreSQL answers")

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"test_{next(self._names)}"
        self._run("createdb", "-h", str(self.directory), "-U", USER, name)
        return f"postgresql+asyncpg://{USER}@/{name}?host={self.directory}"

    def destroy(self) -> None:
        pid = int((self.directory / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        self._process.wait(20)
        _shared.discard(self._process.pid)
        assert self._process.stdin is not None
        self._process.stdin.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        return self._run("pg_isready", "-h", str(self.directory), check=False) == 0

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        done = subprocess.run(
            [str(self._bin / program), *arguments], user=self._as, cwd=self.directory, capture_output=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{program} {arguments}: {done.stderr.decode()}")
        return done.returncode
