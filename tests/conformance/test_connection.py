"""The shared connection: batching, deadlines, coming back, and what errors become."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from hashlib import sha1
from typing import Any

import pytest

from bridge import connection
from bridge import link as link_module
from bridge.connection import Redis
from bridge.errors import (
    BridgeError,
    Fenced,
    Misconfigured,
    NoGroup,
    NotTaken,
    ServerError,
    ServerFull,
    Unreachable,
)
from bridge.link import Link, NoScript, error_of
from bridge.scripts import Script
from bridge.telemetry import Connected, Disconnected
from bridge.urls import endpoint_of
from tests.conformance.fleet import PATIENT_S
from tests.proxy import Proxy
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import answered


def lua(source: str) -> Script:
    return Script("test", source, sha1(source.encode(), usedforsecurity=False).hexdigest())


ECHO = lua("return ARGV[1]")


@contextlib.asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Redis]:
    redis = await Redis.connect(url, **{"timeout": PATIENT_S, **options})
    try:
        yield redis
    finally:
        await redis.close()


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Redis]:
    async with connected(server.url) as redis:
        yield redis


async def test_answers_come_as_they_are(redis: Redis) -> None:
    assert await redis.call("SET", "k", "é") == b"OK"
    assert await redis.call("GET", "k") == "é".encode()
    assert await redis.call("GET", "nothing") is None
    assert await redis.call("INCRBY", "n", 9007199254740993) == 9007199254740993
    await redis.call("HSET", "h", "f", b"\xff")
    assert await redis.call("HGETALL", "h") == {b"f": b"\xff"}
    await redis.call("ZADD", "z", 1.5, "m")
    assert await redis.call("ZSCORE", "z", "m") == 1.5
    await redis.call("DEL", "k", "n", "h", "z")


async def test_answers_are_matched_in_order(redis: Redis) -> None:
    answers = await asyncio.gather(*(redis.call("ECHO", i) for i in range(2000)))
    assert answers == [b"%d" % i for i in range(2000)]


async def test_calls_of_one_turn_leave_in_one_write(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(server.url) as redis:
        client = server.client()
        before = (await client.info("stats"))["total_reads_processed"]
        await asyncio.gather(*(redis.call("PING") for _ in range(500)))
        spent = (await client.info("stats"))["total_reads_processed"] - before
    assert spent < 10


async def test_an_error_is_its_callers_only(redis: Redis) -> None:
    answers = await asyncio.gather(
        redis.call("ECHO", "a"), redis.call("NOSUCHCOMMAND"), redis.call("ECHO", "b"), return_exceptions=True
    )
    assert (answers[0], answers[2]) == (b"a", b"b")
    assert isinstance(answers[1], ServerError)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("FENCED the lease", Fenced),
        ("OOM command not allowed when used memory > 'maxmemory'.", ServerFull),
        ("NOGROUP No such key 'x'", NoGroup),
        ("NOSCRIPT No matching script.", NoScript),
        ("WRONGTYPE Operation against a key", ServerError),
        ("ERR unknown command", ServerError),
        ("NOAUTH Authentication required.", Misconfigured),
        ("WRONGPASS invalid username-password pair", Misconfigured),
        ("NOPERM this user has no permissions", Misconfigured),
        ("LOADING Redis is loading the dataset in memory", NotTaken),
        ("READONLY You can't write against a read only replica.", NotTaken),
        ("MASTERDOWN Link with MASTER is down", NotTaken),
        ("CLUSTERDOWN The cluster is down", NotTaken),
        ("TRYAGAIN Multiple keys request during rehashing of slot", NotTaken),
        ("BUSY Redis is busy running a script.", NotTaken),
        ("NOREPLICAS Not enough good replicas to write.", NotTaken),
        ("MISCONF Errors writing to the AOF file: No space left on device", NotTaken),
        ("UNBLOCKED the stream key no longer exists", NotTaken),
        ("MOVED 3999 127.0.0.1:6381", NotTaken),
        ("ASK 3999 127.0.0.1:6381", NotTaken),
    ],
)
def test_errors_of_redis_become_ours(text: str, error: type[BridgeError]) -> None:
    assert type(error_of(text)) is error


async def test_a_script_the_server_forgot_is_sent_again(server: Server, redis: Redis) -> None:
    assert await redis.run(ECHO, (), ("a",)) == b"a"
    await server.client().script_flush()
    assert await asyncio.gather(*(redis.run(ECHO, (), (i,)) for i in range(20))) == [b"%d" % i for i in range(20)]


async def test_scripts_named_are_loaded_with_every_connection(server: Server, events: Recorder) -> None:
    client = server.client()
    async with connected(server.url, scripts=(ECHO,), telemetry=events.telemetry):
        assert await client.script_exists(ECHO.sha) == [True]
        await client.script_flush()
        await client.client_kill_filter(_type="normal", skipme=True)
        await events.wait_for_many(2, Connected)
        assert await client.script_exists(ECHO.sha) == [True]


async def test_a_lost_connection_fails_what_waits_and_comes_back(
    server: Server, start_proxy: Callable[..., Any], events: Recorder
) -> None:
    proxy: Proxy = await start_proxy(server)
    async with connected(proxy.url, telemetry=events.telemetry) as redis:
        proxy.black_hole()
        waiting = asyncio.ensure_future(redis.call("PING"))
        asyncio.get_running_loop().call_soon(proxy.drop)
        with pytest.raises(Unreachable):
            await waiting
        proxy.heal()
        await events.wait_for(Disconnected)
        await events.wait_for_many(2, Connected)
        assert await redis.call("PING") == b"PONG"


async def test_a_call_waits_a_moment_for_a_connection_that_is_coming(server: Server, proxy: Proxy) -> None:
    async with connected(proxy.url) as redis:
        proxy.drop()
        with contextlib.suppress(Unreachable):
            await redis.call("PING")
        assert await redis.call("PING") == b"PONG"


async def test_an_answer_that_is_late_cuts_the_connection(proxy: Proxy, events: Recorder) -> None:
    async with connected(proxy.url, timeout=0.5, telemetry=events.telemetry) as redis:
        proxy.black_hole(requests=False)
        with pytest.raises(Unreachable, match=r"no answer within 0\.5 s"):
            await redis.call("PING")
        proxy.heal()
        await events.wait_for_many(2, Connected)


async def test_a_server_that_does_not_greet_is_named_with_the_time_it_had(proxy: Proxy) -> None:
    proxy.black_hole()
    with pytest.raises(Unreachable, match=r": no answer within 0\.1 s$"):
        await Redis.connect(proxy.url, timeout=0.1)


async def test_answers_of_an_old_connection_reach_nobody(proxy: Proxy, events: Recorder) -> None:
    async with connected(proxy.url, timeout=0.5, telemetry=events.telemetry) as redis:
        proxy.black_hole(requests=False)
        with pytest.raises(Unreachable):
            await redis.call("ECHO", "old")
        proxy.heal()
        await events.wait_for_many(2, Connected)
        assert await redis.call("ECHO", "new") == b"new"


async def test_a_silence_nobody_waits_in_cuts_nothing(server: Server, events: Recorder) -> None:
    async with connected(server.url, timeout=0.5, telemetry=events.telemetry) as redis:
        for _ in range(2):
            await redis.call("PING")
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=0.8)
        assert events.all(Disconnected) == []


async def test_a_long_line_of_calls_that_is_being_answered_is_no_silence(own_server: Server) -> None:
    slow = lua("local n = 0 for i = 1, 6e5 do n = n + i end return n")

    async def line() -> float:
        begin = asyncio.get_running_loop().time()
        async with connected(own_server.url, timeout=0.3, scripts=(slow,)) as redis:
            # A server answers what one read brought it (16 KiB) together: the padding makes that a few calls.
            calls = (redis.run(slow, (), ("x" * 8000,)) for _ in range(400))
            for answer in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(answer, BaseException):
                    raise answer
        return asyncio.get_running_loop().time() - begin

    assert await answered(line) > 0.3  # again where the server was held up for that long


async def test_without_a_connection_calls_fail_within_the_deadline(proxy: Proxy) -> None:
    async with connected(proxy.url, timeout=0.5) as redis:
        proxy.cut()
        async with asyncio.timeout(20):
            for _ in range(2):
                with pytest.raises(Unreachable):
                    await redis.call("PING")


async def test_whoever_calls_again_and_again_does_not_hold_up_the_end(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = await Redis.connect(proxy.url, timeout=0.5)
    waits, failed, begun, changed = 0, 0, asyncio.Event(), connection.Server.changed

    async def count(server: connection.Server, within_s: float) -> None:
        nonlocal waits
        waits += 1
        await changed(server, within_s)

    async def ask() -> None:
        nonlocal failed
        while failed < 10:
            begun.set()
            try:
                await redis.call("PING")
            except BridgeError:
                failed += 1

    monkeypatch.setattr(connection.Server, "changed", count)
    proxy.black_hole()
    asking = asyncio.create_task(ask())
    await begun.wait()
    await redis.close()
    await asking
    assert waits < 10


async def test_what_waits_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MAX_WAITING", 100)
    async with connected(server.url) as redis:
        calls = [redis.send("PING") for _ in range(101)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert answers[:100] == [b"PONG"] * 100
    assert isinstance(answers[100], Unreachable)


def test_fifty_thousand_calls_may_wait() -> None:
    assert link_module.MAX_WAITING == 50_000


async def test_a_caller_that_is_gone_disturbs_no_other(redis: Redis) -> None:
    gone = redis.send("ECHO", "gone")
    kept = redis.send("ECHO", "kept")
    gone.cancel()
    assert await kept == b"kept"


async def test_nobody_there_is_unreachable(server: Server) -> None:
    with pytest.raises(Unreachable):
        await Redis.connect(f"unix://{server.directory}/nobody.sock")


async def test_a_server_that_is_slow_to_let_us_in_is_waited_for_at_the_start_only(proxy: Proxy) -> None:
    proxy.delay(0.3)
    with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        await Redis.connect(proxy.url, timeout=0.2)
    async with connected(proxy.url, timeout=0.2, patience_s=30) as redis:
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
            await redis.call("PING")


async def test_a_wrong_password_is_a_matter_of_settings(start_server: Callable[..., Server], engine: str) -> None:
    server = start_server(engine, tcp=True)
    await server.client().config_set("requirepass", "secret")
    with pytest.raises(Misconfigured, match="WRONGPASS"):
        await Redis.connect(server.url.replace("redis://", "redis://:wrong@"))
    async with connected(server.url.replace("redis://", "redis://:secret@")) as redis:
        assert await redis.call("PING") == b"PONG"


async def test_a_database_can_be_chosen(server: Server) -> None:
    async with connected(f"{server.url}?db=3") as redis:
        await redis.call("SET", "k", "v", "EX", 60)
    assert await server.client(db=3).get("k") == b"v"


async def test_what_speaks_no_redis_is_unreachable(server: Server) -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    path = f"{server.directory}/http.sock"
    async with await asyncio.start_unix_server(serve, path):
        with pytest.raises(Unreachable):
            await Link.open(endpoint_of(f"unix://{path}"), timeout=1)


@pytest.mark.parametrize("url", ["", "localhost", "http://localhost", "redis://localhost:port", "redis://h/x/y?db=a"])
def test_a_url_that_names_no_server_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured):
        endpoint_of(url)


def test_a_url_tells_everything() -> None:
    endpoint = endpoint_of("rediss://user:secret@host:7000/2")
    assert (endpoint.host, endpoint.port, endpoint.database) == ("host", 7000, 2)
    assert (endpoint.username, endpoint.password) == ("user", "secret")
    assert isinstance(endpoint.tls, ssl.SSLContext)
    assert "secret" not in repr(endpoint)
