"""What a test must not leave behind: tasks and processes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import psutil

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent dies, so that ``children`` sees them too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> dict[int, str]:
    """Child processes that run now, pid → command line. Ended ones among them are reaped."""
    if sys.platform == "linux":
        pids = {int(pid) for task in Path("/proc/self/task").iterdir() for pid in _children_of(task)}
    else:
        pids = {process.pid for process in psutil.Process().children()}
    found = {}
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(pid, os.WNOHANG)
            else:
                found[pid] = " ".join(process.cmdline())[:200]
        except (psutil.NoSuchProcess, ChildProcessError):
            pass
    return found


def _children_of(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # the thread ended just now
        return []


def tasks() -> list[str]:
    """Tasks of this event loop that are not done, without the one that asks."""
    return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task() and not _is_stuck(task)]


def _is_stuck(task: asyncio.Task[Any]) -> bool:
    """Whether it is SQLAlchemy's, which closes a connection to SQLite whose user was cancelled twice.

    The second time stops the connection's thread, which the first close then waits for (aiosqlite 0.22.1).
    """
    return getattr(task.get_coro(), "__qualname__", "").endswith("._terminate_graceful_close")
