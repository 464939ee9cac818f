"""The fixtures do what tests believe of them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError

from bridge.telemetry import Acquired, Released
from tests import leftovers
from tests.proxy import Names, Proxy
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import ended, running, until


def impatient(url: str) -> Redis:
    return Redis.from_url(url, socket_timeout=1, retry=Retry(NoBackoff(), 0))


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_server_comes_back_where_it_was(start_server: Callable[..., Server], tcp: bool) -> None:
    server = start_server(tcp=tcp)
    client = server.client()
    await client.set("key", "value")
    first = server.pid
    await server.terminate()
    assert not server.running
    await server.restart()
    assert server.pid != first
    assert await client.get("key") == b"value"


async def test_a_stopped_server_is_silent_until_it_goes_on(own_server: Server) -> None:
    async with impatient(own_server.url) as client:
        await client.ping()
        own_server.stop()
        with pytest.raises(TimeoutError):
            await client.ping()
        own_server.cont()
        await client.ping()


async def test_options_reach_the_server(start_server: Callable[..., Server]) -> None:
    client = start_server("redis-7.0", maxmemory="20mb").client()
    assert await client.config_get("maxmemory") == {"maxmemory": str(20 << 20)}


@pytest.mark.parametrize("round_", [1, 2])
async def test_the_shared_server_is_empty_for_each_test(server: Server, round_: int) -> None:
    client = server.client()
    assert await client.dbsize() == 0
    await client.set("key", round_)


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_proxy_forwards(server: Server, start_proxy: Callable[..., Any], tcp: bool) -> None:
    proxy = await start_proxy(server, tcp=tcp)
    async with impatient(proxy.url) as client:
        assert await client.echo("x" * 300_000) == b"x" * 300_000
        assert proxy.connections == 1
    await until(lambda: proxy.connections == 0)


async def test_a_cut_refuses_until_healed(proxy: Proxy) -> None:
    async with impatient(proxy.url) as client:
        await client.ping()
        proxy.cut()
        with pytest.raises(ConnectionError):
            await client.ping()
        proxy.heal()
        await client.ping()


async def test_a_drop_breaks_what_is_connected_only(proxy: Proxy) -> None:
    async with impatient(proxy.url) as client, client.client() as held:
        await held.ping()
        proxy.drop()
        with pytest.raises(ConnectionError):
            await held.ping()
        await client.ping()


async def test_what_a_black_hole_held_arrives_late(server: Server, proxy: Proxy) -> None:
    direct = server.client()
    async with impatient(proxy.url) as client:
        await client.ping()
        proxy.black_hole()
        with pytest.raises(TimeoutError):
            await client.set("key", "late")
        assert await direct.get("key") is None
        proxy.heal()
        assert await until(lambda: direct.get("key")) == b"late"


async def test_a_black_hole_for_replies_leaves_the_outcome_unknown(server: Server, proxy: Proxy) -> None:
    direct = server.client()
    async with impatient(proxy.url) as client:
        await client.ping()
        proxy.black_hole(requests=False)
        with pytest.raises(TimeoutError):
            await client.set("key", "done")
        assert await direct.get("key") == b"done"


async def test_a_delay_is_a_delay_each_way(proxy: Proxy) -> None:
    loop = asyncio.get_running_loop()
    async with Redis.from_url(proxy.url) as client:
        await client.ping()
        proxy.delay(0.05)
        begin = loop.time()
        await client.ping()
        assert 0.1 <= loop.time() - begin < 10


def test_proxies_put_their_own_ports_where_servers_name_others() -> None:
    names = Names({40001: 50001, 40002: 50002})
    told = (
        b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n40001\r\n:40002\r\n-MOVED 7 127.0.0.1:40002\r\n"
        b"$20\r\nab 127.0.0.1:40001@50000\r\n$7\r\n7-40001\r\n:400010\r\n"
    )
    parts = [told[:40], told[40:41], told[41:]]
    assert b"".join(map(names.exchange, parts)) == (
        b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n50001\r\n:50002\r\n-MOVED 7 127.0.0.1:50002\r\n"
        b"$20\r\nab 127.0.0.1:50001@50000\r\n$7\r\n7-40001\r\n:400010\r\n"
    )


async def test_the_recorder_waits_for_what_it_is_asked(events: Recorder) -> None:
    events.telemetry.emit(Acquired(node="a", shard=1, epoch=1))
    asyncio.get_running_loop().call_soon(events.telemetry.emit, Released(node="a", shard=7))
    asyncio.get_running_loop().call_soon(events.telemetry.emit, Acquired(node="b", shard=7, epoch=3))
    assert await events.wait_for(Acquired, shard=7, epoch=lambda epoch: epoch > 2) == Acquired("b", 7, 3)
    assert len(await events.wait_for_many(2, Acquired)) == 2
    events.clear()
    with pytest.raises(AssertionError, match=r"0 of 1 Acquired\(node='a'\) within 0.01 s"):
        await events.wait_for(Acquired, timeout=0.01, node="a")


async def test_waiting_ends_at_the_deadline_with_the_last_answer() -> None:
    with pytest.raises(AssertionError, match=r"not within 0.02 s: spring; last answer \[\]"):
        await until(list, timeout=0.02, what="spring")


async def test_orphans_of_a_killed_process_are_seen() -> None:
    code = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        parent.kill()
    assert running(orphan)
    await until(lambda: orphan in leftovers.children())
    os.kill(orphan, signal.SIGKILL)
    await ended(orphan)
    assert orphan not in leftovers.children()
