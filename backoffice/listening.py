"""The HTTP listener: its limits against slow and broken clients, and how it begins and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from socket import AF_INET6
from ssl import SSLContext
from typing import Any

from aiohttp import web

from backoffice.metrics import METRICS
from backoffice.middleware import REQUEST_ID_HEADER, Frame
from backoffice.problems import Problem
from backoffice.ui.site import NOWHERE

IDLE_SECONDS = 5.0  # without a complete request head
LINGERING_SECONDS = 2.0  # reading on what nobody wants, so that the caller gets to read the answer
SHUTDOWN_SECONDS = 0.7  # for answers under way; whoever waits for an event is told to answer first
# asyncio would give a silent client a minute to begin, and half of one to say good-bye.
_HANDSHAKE: dict[str, Any] = {"ssl_handshake_timeout": IDLE_SECONDS, "ssl_shutdown_timeout": SHUTDOWN_SECONDS}


class Protocol(web.RequestHandler):
    """Answers what is no HTTP with a problem document, too, and without a line in the log."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer was sent already")
        if status >= 500:
            self.log_exception("request failed outside of its frame", exc_info=exc)
            problem = Problem("internal", "something broke here")
        else:
            problem = Problem("malformed", "this is not HTTP/1.1, or its head is too long (a line: 8,190 bytes)")
        response = problem.response("-")
        response.headers[REQUEST_ID_HEADER] = "-"
        response.force_close()
        return response


@asynccontextmanager
async def listening(app: web.Application, host: str, port: int, tls: SSLContext | None = None) -> AsyncIterator[str]:
    """Serve ``app``, over https with ``tls``, and give its URL. Raises OSError if the address cannot be had."""
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    try:
        await runner.setup()  # what was set up before the part that fails is taken down as well
        server = runner.server
        assert server is not None
        server.request_handler = Frame(server.request_handler, app[NOWHERE], app[METRICS])  # type: ignore[assignment]
        protocol = partial(
            Protocol,
            server,
            loop=loop,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=LINGERING_SECONDS,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]
        )
        listener = await loop.create_server(protocol, host, port, ssl=tls, **({} if tls is None else _HANDSHAKE))
        try:
            yield _url(listener, "http" if tls is None else "https")
        finally:
            listener.close()  # first of all, so that no request comes in that nobody would answer
    finally:
        await runner.cleanup()


def _url(listener: asyncio.Server, scheme: str) -> str:
    socket = listener.sockets[0]
    host, port = socket.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if socket.family == AF_INET6 else f"{scheme}://{host}:{port}"
