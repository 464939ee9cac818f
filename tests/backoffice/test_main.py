"""The command: its start, its words about bad settings, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import orjson
import pytest

from bridge.logs import LINES_PER_S
from tests.servers import Server
from tests.waiting import until

GOOD = {"BACKOFFICE_PORT": "0", "BACKOFFICE_API_TOKENS": "ann:admin:0123456789abcdef", "BRIDGE_SHARDS": "8",
        "BACKOFFICE_ADMIN_PASSWORD": "correct horse battery"}  # fmt: skip


async def start(directory: Path, *options: str, **variables: str) -> asyncio.subprocess.Process:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BRIDGE_", "BACKOFFICE_", "CHATSERVER_"))}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "backoffice",
        *options,
        cwd=directory,
        env={**inherited, "PYTHONPATH": str(Path.cwd()), **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_serves_and_stops_within_two_seconds(
    server: Server, tmp_path: Path, number: signal.Signals
) -> None:
    ready = tmp_path / "ready.json"
    process = await start(tmp_path, "--ready-file", str(ready), BRIDGE_REDIS_URL=server.url, **GOOD)
    assert process.stdout is not None
    told = orjson.loads(await process.stdout.readline())
    assert told["pid"] == process.pid
    assert orjson.loads(await until(lambda: ready.exists() and ready.read_bytes(), 60)) == told
    token = {"Authorization": "Bearer 0123456789abcdef"}
    async with aiohttp.ClientSession(headers=token) as session:
        room = {"type": "room.open", "subject": "room:lobby", "payload": {}}
        waiting = asyncio.create_task(session.post(f"{told['url']}/api/v1/commands?wait=30", json=room))

        async def accepted() -> bool:
            async with session.get(f"{told['url']}/api/v1/shards") as response:
                return any(shard["length"] for shard in (await response.json())["items"])

        await until(accepted)
        live = f"{told['url']}/api/v1/live?topics=nodes,shards,sample"
        streams = [await session.get(live) for _ in range(3)]
        for stream in streams[1:]:  # the first one reads nothing
            await stream.content.readuntil(b"\nevent: ")
        heard = [asyncio.create_task(stream.read()) for stream in streams[1:]]
        stopped = asyncio.get_running_loop().time()
        process.send_signal(number)
        async with asyncio.timeout(5):
            _, errors = await process.communicate()
        assert asyncio.get_running_loop().time() - stopped < 2
        assert (await waiting).status == 202
        (await waiting).close()
        await asyncio.gather(*heard)  # each was ended in good order
        streams[0].close()
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors


@pytest.mark.parametrize(
    ("variables", "status", "says"),
    [
        ({"BACKOFFICE_DATABASE_URL": "mysql://x"}, 2, b"postgresql+asyncpg://"),
        ({"BACKOFFICE_DATABASE_URL": "sqlite+aiosqlite:////proc/x/y.db"}, 2, b"BACKOFFICE_DATABASE_URL"),
        ({"BACKOFFICE_API_TOKENS": "ann:admin:short"}, 2, b"16 or more"),
        ({"BACKOFFICE_SPEED": "9"}, 2, b"unknown setting BACKOFFICE_SPEED"),
        ({"BRIDGE_REDIS_URL": ""}, 2, b"BRIDGE_REDIS_URL is not set"),
        ({"BRIDGE_REDIS_URL": "http://x"}, 2, b"redis://"),
        ({"BRIDGE_REDIS_URL": "unix:///nowhere.sock"}, 1, b"cannot serve: Redis does not answer: /nowhere.sock"),
        ({"BRIDGE_REDIS_URL": "unix:///nowhere.sock"}, 1, b"is BRIDGE_REDIS_URL right?"),
        ({"BRIDGE_PLUGINS": "no.such.module"}, 2, b"BRIDGE_PLUGINS"),
        ({"BACKOFFICE_HOST": "0.0.0.0"}, 2, b"BACKOFFICE_HOST='0.0.0.0'"),
        ({"BACKOFFICE_HOST": "192.0.2.1", "BACKOFFICE_TRUSTED_PROXIES": "192.0.2.7"}, 1, b"cannot serve"),
    ],
)
async def test_it_ends_with_a_word_where_it_cannot_serve(
    server: Server, tmp_path: Path, variables: dict[str, str], status: int, says: bytes
) -> None:
    process = await start(tmp_path, **{"BRIDGE_REDIS_URL": server.url, **GOOD, **variables})
    try:
        async with asyncio.timeout(60):  # a start takes its time on a machine that is busy
            out, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        _, errors = await process.communicate()
        pytest.fail(f"it still runs: {errors.decode()}")
    assert (process.returncode, out) == (status, b"")
    assert says in errors
    assert b"Traceback" not in errors


async def test_the_first_start_tells_a_one_time_password(server: Server, tmp_path: Path) -> None:
    without = {**{name: value for name, value in GOOD.items() if "ADMIN" not in name}, "BACKOFFICE_API_TOKENS": ""}
    said: list[bytes] = []
    for _ in range(2):
        process = await start(tmp_path, BRIDGE_REDIS_URL=server.url, **without)
        assert process.stdout is not None
        await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        said.append((await process.communicate())[1])
    assert b"log in as 'admin' with the one-time password " in said[0]
    assert b"password" not in said[1]


async def test_a_caller_who_is_refused_again_and_again_does_not_fill_the_log(server: Server, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    tokens = "ann:viewer:0123456789abcdef"
    options = {**GOOD, "BRIDGE_REDIS_URL": server.url, "BACKOFFICE_API_TOKENS": tokens}
    process = await start(tmp_path, "--ready-file", str(ready), **options)
    await until(ready.exists, 60)
    began = asyncio.get_running_loop().time()
    url = f"{orjson.loads(ready.read_bytes())['url']}/api/v1/nodes/node-a/drain"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {tokens.split(':')[2]}"}) as session:
        for _ in range(20):
            answers = await asyncio.gather(*(session.post(url) for _ in range(50)))
            assert {answer.status for answer in answers} == {403}
            for answer in answers:
                answer.release()
    seconds = asyncio.get_running_loop().time() - began
    process.send_signal(signal.SIGTERM)
    _, errors = await process.communicate()
    lines = [orjson.loads(line) for line in errors.splitlines()]
    assert 0 < sum(line["event"] == "forbidden" for line in lines) <= LINES_PER_S * (int(seconds) + 2)
