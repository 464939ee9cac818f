"""HTTP: POST /commands, authenticated, validated and audited, against a handler that only appends.

As ``python -m bench.http theirs URL`` it is the server to compare with; as ``python -m bench.http load URL TOKEN
REQUESTS CALLERS`` the process that asks.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from bench.measure import Row, Session, child, heard, say
from bench.workload import pooled, redis_py, redis_server
from bridge.child import Child
from bridge.process import new_event_loop

CALLERS = 50, 256  # connections, each with one request at a time
POOL = 50
REQUESTS = 8000  # a round
BAR = 1.5
TOKEN = "bench-token-0123456789abcdef"
ADMIN, PASSWORD = "admin", "a password for benches"
BODY = {"type": "member.mute", "subject": "room:lobby", "payload": {"user": "u7", "seconds": 60}, "reason": "spam"}


async def bench(session: Session) -> AsyncIterator[Row]:
    requests = session.some(REQUESTS, 1000)
    async with (
        redis_server() as server,
        back_office(server.url) as office,
        back_office(server.url, "bench.http_unwritten") as unwritten,
        child("bench.http_least", server.url, TOKEN) as least,
        child("bench.http", "theirs", server.url) as app,
    ):
        their_url, their_pid = await app.hear()
        least_url, least_pid = await least.hear()
        sides = {
            "POST /commands": (f"{office.told['url']}/api/v1/commands", office.pid, BAR),
            "the same with nothing written": (f"{unwritten.told['url']}/api/v1/commands", unwritten.pid, None),
            "the least that could be called audited": (least_url, least_pid, None),
        }
        for callers in CALLERS:
            for side, (url, pid, bar) in sides.items():
                ours_s: list[float] = []
                theirs_s: list[float] = []
                ours, theirs = await session.rounds(
                    "http",
                    partial(_ask, server.url, url, pid, requests, callers, ours_s),
                    partial(_ask, server.url, their_url, their_pid, requests, callers, theirs_s),
                )
                case = f"{callers} callers, {side} against POST → XADD"
                yield Row("http", case, "per s", ours, theirs, bar)
                spent = [type(ours)(tuple(1 / value for value in values)) for values in (ours_s, theirs_s)]
                yield Row("http", "the same, requests per second of the server's own processor time", "per s", *spent)


@asynccontextmanager
async def back_office(redis_url: str, module: str = "backoffice") -> AsyncIterator[Child]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        settings = {
            "BRIDGE_REDIS_URL": redis_url,
            "BRIDGE_BACKLOG_LIMIT": "1000000",
            "BACKOFFICE_PORT": "0",
            "BACKOFFICE_DATABASE_URL": f"sqlite+aiosqlite:///{directory}/backoffice.sqlite3",
            "BACKOFFICE_API_TOKENS": f"bench:admin:{TOKEN}",
            "BACKOFFICE_ADMIN_PASSWORD": PASSWORD,
        }
        paths = os.pathsep.join((str(Path.cwd()), os.environ.get("PYTHONPATH", "")))  # it has another working directory
        office = Child("backoffice", module, Path(directory), {**os.environ, "PYTHONPATH": paths, **settings})
        await office.start()
        try:
            yield office
        finally:
            await office.stop()


async def _ask(redis_url: str, url: str, pid: int, requests: int, callers: int, spent: list[float]) -> float:
    async with redis_py(redis_url) as client:
        await client.delete("bench:stream", *[f"chat:{{{shard}}}:commands" for shard in range(64)])
    before = _cpu_s(pid)
    async with child("bench.http", "load", url, TOKEN, str(requests), str(callers)) as load:
        rate = float(await load.hear())
    spent.append((_cpu_s(pid) - before) / requests)
    return rate


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _serve_theirs(url: str) -> None:
    async with pooled(url, POOL) as client:

        async def accept(request: web.Request) -> web.Response:
            body = orjson.loads(await request.read())
            fields = {"type": body["type"], "subject": body["subject"], "payload": orjson.dumps(body["payload"])}
            id = await client.xadd("bench:stream", fields)
            return web.json_response({"id": id.decode()}, status=202)

        app = web.Application()
        app.router.add_post("/", accept)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        say([f"http://{host}:{port}/", os.getpid()])
        await heard()
        await runner.cleanup()


async def _load(url: str, token: str, requests: int, callers: int) -> None:
    """Ask as fast as answers come. A bare client: a full one would take more of the processor than the server does."""
    parts, body = urlsplit(url), orjson.dumps(BODY)
    request = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    left = iter(range(requests))

    async def caller() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for _ in left:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 202"):
                raise RuntimeError(head.decode())
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    say(requests / (time.perf_counter() - began))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:  # the back office's own
        if sys.argv[1] == "theirs":
            runner.run(_serve_theirs(sys.argv[2]))
        else:
            runner.run(_load(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
