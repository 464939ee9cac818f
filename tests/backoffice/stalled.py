"""A listener to events that does not read, and more events than the sockets in between hold."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from yarl import URL

from backoffice.api.live import STREAMS
from backoffice.routes import WATCH
from tests.backoffice.service import Api
from tests.waiting import until

MEGABYTES = 30  # several times what Linux gives the two sockets


@contextmanager
def stalled(api: Api, who: str) -> Iterator[socket.socket]:
    """A connection that has asked for commands; ``who`` is the header that says who asks."""
    url = URL(api.url)
    assert url.host is not None
    assert url.port is not None
    with socket.create_connection((url.host, url.port)) as listener:
        request = f"GET /api/v1/live?topics=commands HTTP/1.1\r\nHost: {url.host}\r\n{who}\r\n\r\n"
        listener.sendall(request.encode())
        yield listener


async def flooded(app: web.Application) -> None:
    """Once somebody listens, they are told so much that writing to them has to wait."""
    await until(lambda: app[STREAMS], what="an open stream")
    for number in range(MEGABYTES):
        app[WATCH].live.tell("commands", {"number": number, "text": "x" * 1_000_000})
