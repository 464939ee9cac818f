"""The least that "authenticated, validated, audited" can mean, beside which it shows what everything else costs.

``python -m bench.http_least URL``. It knows one token and one command; it writes a row for each request, with the hash
of the row before, synced before the command is sent, and one for the result; requests share transactions and
pipelines. No roles, limits, ids, keys, order, history or journal.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis

from bench.measure import heard, say
from bench.workload import redis_py
from bridge.many_rows import in_statements
from bridge.process import new_event_loop

_TABLE = "CREATE TABLE audit (at, by, action, target, detail, result, hash)"
_INSERT = "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)"


class Mute(BaseModel):
    """The payload."""

    user: str = Field(max_length=64)
    seconds: int = Field(ge=1)


class CommandIn(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: str = Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$", max_length=64)
    subject: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}:[A-Za-z0-9._@+-]{1,64}$")
    payload: dict[str, Any]
    reason: str | None = None


class Together:
    """What is asked for while the last was done is done next, all of it at once."""

    def __init__(self, do: Callable[[list[Any]], Awaitable[list[Any]]]) -> None:
        self._do = do
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._doing: asyncio.Task[None] | None = None

    async def ask(self, what: Any) -> Any:
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((what, done))
        if self._doing is None:
            self._doing = asyncio.create_task(self._all())
        return await done

    async def _all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            for (_, done), answer in zip(group, await self._do([what for what, _ in group]), strict=True):
                done.set_result(answer)
        self._doing = None


class Chain:
    """The file."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(_TABLE)
        self._hash = b""
        self.results: list[tuple[Any, ...]] = []  # written with the next intents

    async def write(self, intents: list[tuple[Any, ...]]) -> list[None]:
        rows, self.results = intents + self.results, []
        await asyncio.to_thread(self._write, rows)
        return [None] * len(intents)

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        sealed = []
        for row in rows:
            self._hash = hashlib.sha256(self._hash + orjson.dumps(row)).digest()
            sealed.append((*row, self._hash))
        with self._db:
            for text, values in in_statements(_INSERT, sealed):
                self._db.execute(text, values)


def make_app(chain: Chain, redis: Redis, token: str) -> web.Application:
    callers = {hashlib.sha256(token.encode()).digest(): "bench"}

    async def send(commands: list[dict[str, bytes | str]]) -> list[bytes]:
        async with redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.xadd("bench:stream", command)  # type: ignore[arg-type]  # its dict is invariant
            return await pipeline.execute()

    intents, sends = Together(chain.write), Together(send)

    async def accept(request: web.Request) -> web.Response:
        by = callers[hashlib.sha256(request.headers[hdrs.AUTHORIZATION].removeprefix("Bearer ").encode()).digest()]
        command = CommandIn.model_validate(orjson.loads(await request.read()))
        Mute.model_validate(command.payload)
        payload = orjson.dumps(command.payload).decode()
        act = (time.time(), by, "commands.issue", command.subject, payload)
        await intents.ask((*act, "intended"))
        fields = {"type": command.type, "subject": command.subject, "payload": payload, "by": by}
        id = (await sends.ask(fields)).decode()
        chain.results.append((*act, f"accepted {id}"))
        return web.json_response({"id": id, "type": command.type, "state": "accepted"}, status=202)

    app = web.Application()
    app.router.add_post("/", accept)
    return app


async def serve(url: str, token: str) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        async with redis_py(url) as redis:
            app = make_app(Chain(Path(directory, "audit.sqlite3")), redis, token)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            say([f"http://{host}:{port}/", os.getpid()])
            await heard()
            await runner.cleanup()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as main:
        main.run(serve(sys.argv[1], sys.argv[2]))
