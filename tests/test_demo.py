"""The demo, as a process: what it serves, what it survives, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import aiohttp
import pytest
import redis.asyncio
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from bridge.bots import Bot
from bridge.demo import _inherited
from bridge.rest import RestApi
from tests.waiting import answered, ended, running, until

START_S = 40  # the machine may be busy with other tests


class Demo:
    """A running ``chatbridge demo``."""

    def __init__(self, process: asyncio.subprocess.Process, ready_file: Path, output: Path) -> None:
        self.process, self.ready_file, self._output = process, ready_file, output

    @property
    def ready(self) -> dict[str, Any]:
        return json.loads(self.ready_file.read_text())

    @property
    def pids(self) -> dict[str, int]:
        return self.ready["pids"]

    @property
    def output(self) -> str:
        return self._output.read_text()

    def api(self) -> Any:
        ready = self.ready
        return RestApi.connect(ready["backoffice"], ready["api_token"])

    def kill(self, name: str) -> None:
        os.kill(self.pids[name], signal.SIGKILL)

    async def serves(self) -> None:
        await until(
            lambda: self.ready_file.exists() or self.process.returncode is not None,
            START_S,
            what=lambda: f"the demo serves; it said: {self.output}",
        )
        assert self.ready_file.exists(), self.output

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because a unix socket is to be in it; stands in for the folder of temporary files, too."""
    with tempfile.TemporaryDirectory(prefix="demo-") as path:
        yield Path(path)


@asynccontextmanager
async def launched(folder: Path, *options: str, nodes: int = 1, cwd: Path | None = None) -> AsyncIterator[Demo]:
    number = len(list(folder.glob("output-*")))
    output, ready_file = folder / f"output-{number}", folder / f"ready-{number}.json"
    with output.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge.cli", "demo", "--port", "0", "--nodes", str(nodes)),
            *("--ready-file", os.fspath(ready_file), *options),
            cwd=cwd,
            env={**os.environ, "TMPDIR": os.fspath(folder), "BACKOFFICE_TOKEN": "of-another-installation"},
            stdout=log,
            stderr=log,
        )
    try:
        yield Demo(process, ready_file, output)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def serving(folder: Path, *options: str, nodes: int = 1, cwd: Path | None = None) -> AsyncIterator[Demo]:
    async with launched(folder, *options, nodes=nodes, cwd=cwd) as demo:
        await demo.serves()
        yield demo


async def get(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status


async def is_ready(backoffice: str) -> bool:
    return await get(f"{backoffice}/readyz") == 200


async def history(demo: Demo, room: str = "lobby") -> list[dict[str, Any]]:
    async with demo.api() as api:
        return (await read(api, f"/rooms/{room}/history", limit=500))["items"]


async def read(api: RestApi, path: str, **query: str | int) -> dict[str, Any]:
    found: dict[str, Any] = await answered(lambda: api.call("GET", path, query=query), START_S)
    return found


async def post(api: RestApi, text: str) -> dict[str, Any]:
    """A notice in the lobby, once, and what became of it."""
    body = {"type": "notice.post", "subject": "room:lobby", "payload": {"text": text}}
    key = {"Idempotency-Key": token_hex(8)}
    ask = partial(api.call, "POST", "/commands", body, query={"wait": 15}, headers=key, wait_s=15)
    told: dict[str, Any] = await answered(ask, START_S)
    return told


async def test_the_ready_file_names_everything_that_serves(folder: Path) -> None:
    async with serving(folder, nodes=2) as demo:
        ready = demo.ready
        assert set(ready) == {"backoffice", "nodes", "redis_url", "admin", "api_token", "pids", "rooms"}
        assert stat.S_IMODE(demo.ready_file.stat().st_mode) == 0o600
        assert ready["admin"]["user"] == "admin"
        async with aiohttp.ClientSession() as browser:
            who = {"name": "admin", "password": ready["admin"]["password"]}
            async with browser.post(f"{ready['backoffice']}/api/v1/session", json=who) as answer:
                assert answer.status == 200
        assert set(demo.pids) == {"demo", "backoffice", "redis", "node-a", "node-b"}
        assert demo.pids["demo"] == demo.process.pid
        assert all(running(pid) for pid in demo.pids.values())
        assert [node["name"] for node in ready["nodes"]] == ["node-a", "node-b"]
        for node in ready["nodes"]:
            assert set(node) == {"name", "pid", "url", "health_url"}
            assert node["pid"] == demo.pids[node["name"]]
            assert await get(node["health_url"]) == 200
        await until(lambda: is_ready(ready["backoffice"]))
        async with redis.asyncio.Redis.from_url(ready["redis_url"]) as client:
            assert (await client.info("server"))["process_id"] == demo.pids["redis"]
        async with demo.api() as api:
            rooms = (await read(api, "/rooms"))["items"]
            assert {room["id"] for room in rooms} == set(ready["rooms"])
            assert (await read(api, "/chat-token", user="u7"))["token"]
        for secret in (
            ready["api_token"],
            ready["admin"]["password"],
            ready["backoffice"],
            *(node["url"] for node in ready["nodes"]),
        ):
            assert secret in demo.output
        page = ready["nodes"][0]["health_url"].removesuffix("healthz")
        assert re.search(rf"chat page +{page}$", demo.output, re.MULTILINE)
        assert await get(page) == 200
        assert await demo.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_nothing_of_it_stays_however_it_ends(folder: Path, number: signal.Signals) -> None:
    async with serving(folder, nodes=2) as demo:
        pids = demo.pids
        code = await demo.end(number)
        for pid in pids.values():
            await ended(pid, timeout=20)
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 0
        assert not list(folder.glob("chatbridge-demo-*")), "the temporary folder is gone"


async def test_nothing_of_it_stays_when_it_is_killed_while_starting(folder: Path) -> None:
    async with launched(folder) as demo:
        await until(lambda: list(folder.glob("chatbridge-demo-*/logs/node-a.log")), START_S)
        await demo.end(signal.SIGKILL)  # the check that every test has finds what stays


async def test_a_signal_while_it_starts_stops_it(folder: Path) -> None:
    async with launched(folder) as demo:
        await until(lambda: list(folder.glob("chatbridge-demo-*/logs/node-a.log")), START_S)
        assert await demo.end(signal.SIGINT) == 0
        assert not demo.ready_file.exists()


async def test_bots_chat_and_a_killed_node_stays_dead_while_the_others_go_on(folder: Path) -> None:
    async with serving(folder, nodes=2) as demo:
        demo.kill("node-a")
        await until(lambda: "node-a ended (SIGKILL)" in demo.output, START_S)
        async with demo.api() as api:
            answer = await post(api, "one node is left")
            assert (answer["state"], answer["node"]) == ("done", "node-b")

            async def moved() -> bool:
                sessions = [(await read(api, f"/users/{bot}"))["sessions"] for bot in ("ada", "bert")]
                return all(len(s) == 1 and s[0]["node"] == "node-b" for s in sessions)

            await until(moved, 40, what="bots of the dead node are on the other")
        at = len(await history(demo))

        async def more() -> bool:
            return len(await history(demo)) > at

        await until(more, 20, what="bots go on chatting")
        assert not running(demo.pids["node-a"])


async def test_with_restart_a_killed_node_comes_back_where_it_was(folder: Path) -> None:
    async with serving(folder, "--restart", "--no-bots") as demo:
        before = demo.ready["nodes"][0]
        demo.kill("node-a")
        await until(lambda: demo.pids["node-a"] != before["pid"], START_S, what=lambda: demo.output)
        after = demo.ready["nodes"][0]
        assert {**after, "pid": 0} == {**before, "pid": 0}
        assert await get(after["health_url"]) == 200


async def test_a_killed_server_comes_back_with_its_data(folder: Path) -> None:
    async with serving(folder, "--no-bots") as demo:
        before = demo.pids["redis"]
        async with demo.api() as api:
            await post(api, "kept")
            async with redis.asyncio.Redis.from_url(demo.ready["redis_url"]) as client:
                await client.execute_command("WAITAOF", 1, 0, 5000)
            demo.kill("redis")
            await until(lambda: demo.pids["redis"] != before, START_S, what=lambda: demo.output)

            async def works() -> bool:
                return (await post(api, "kept"))["state"] == "done"

            await until(works, START_S)
        assert [item["text"] for item in await history(demo)].count("kept") >= 2


async def test_data_outlives_the_demo_in_a_folder_of_ones_own(folder: Path) -> None:
    data = os.fspath(folder / "data")
    async with serving(folder, "--data", data, "--no-bots") as demo:
        async with demo.api() as api:
            await post(api, "kept")
        secret = demo.ready["api_token"]
        async with launched(folder, "--data", data) as second:
            assert await second.process.wait() == 2
            assert f"is in use by process {demo.pids['demo']}" in second.output
        assert await demo.end() == 0
    async with serving(folder, "--data", data, "--no-bots") as demo:
        assert "kept" in [item["text"] for item in await history(demo)]
        assert demo.ready["api_token"] != secret


async def test_settings_of_the_current_folder_are_of_another_installation(folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CHATSERVER_JWT_ISSUER=somebody\nBRIDGE_SPEED=9\nBACKOFFICE_PORT=1\n")
    async with serving(folder, "--data", "here", cwd=tmp_path) as demo, demo.api() as api:

        async def chats() -> bool:
            return bool((await read(api, "/users/ada"))["sessions"])

        await until(chats, START_S, what=lambda: demo.output)
        assert (tmp_path / "here" / "logs" / "node-a.log").exists()


def test_files_and_modules_of_the_shells_settings_are_found_from_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATSERVER_WORDS_FILE", "words")
    monkeypatch.setenv("BRIDGE_PLUGINS", "file:plugins")
    monkeypatch.setenv("CHATSERVER_JWT_ISSUER", "somebody")
    monkeypatch.setenv("PYTHONPATH", "/a")
    given = _inherited(Path("/here"))
    assert (given["CHATSERVER_WORDS_FILE"], given["BRIDGE_PLUGINS"]) == ("/here/words", "file:/here/plugins")
    assert given["PYTHONPATH"] == f"/here{os.pathsep}/a"
    assert "CHATSERVER_JWT_ISSUER" not in given


async def test_a_bot_says_once_why_it_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.bots._PENSIVE_S", 0)
    visits, lines = 0, []

    async def turn_away(socket: ServerConnection) -> None:
        nonlocal visits
        visits += 1
        await socket.close(4501, "unauthorized: issuer")

    async def token() -> str:
        return "t"

    async with serve(turn_away, "127.0.0.1", 0, subprotocols=[Subprotocol("bridge.v1")]) as server:
        port = server.sockets[0].getsockname()[1]
        life = asyncio.create_task(Bot("ada", lambda: [f"ws://127.0.0.1:{port}"], token, lines.append).run())
        await until(lambda: visits > 2)
        life.cancel()
        await asyncio.wait((life,))
    assert lines == ["ada is turned away: 4501 unauthorized: issuer"]


async def test_a_taken_port_is_named_and_nothing_stays(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with launched(folder, "--port", port) as demo:
            assert await demo.process.wait() == 1
            assert port in demo.output
            assert "Traceback" not in demo.output
            assert not demo.ready_file.exists()
