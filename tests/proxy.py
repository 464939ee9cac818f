"""Proxies between a client and its servers that fail in the ways networks do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from tests.servers import Server


class Proxy:
    """Forwards bytes both ways until told otherwise; ``url`` is where clients connect.

    =================  ====================================================================
    ``cut()``          every connection is reset, new ones are refused
    ``drop()``         every connection is reset, new ones are let through
    ``black_hole()``   nothing arrives any more, nothing is refused: silence
    ``delay(s)``       every byte is late by ``s`` seconds, each way
    ``heal()``         as at first; what a black hole held arrives now, late, as TCP does it
    =================  ====================================================================
    """

    url: str

    def __init__(self, target: str) -> None:
        self.named: Mapping[int, int] = {}  # ports of servers that replies name → what the client is to read
        self._target = target
        self._listener: asyncio.Server | None = None
        self._flows: set[_Flow] = set()
        self._delay_s = 0.0
        self._refusing = False
        self._open = {"requests": asyncio.Event(), "replies": asyncio.Event()}
        self._open_all()

    @classmethod
    async def start(cls, target: str, directory: Path | None = None) -> Self:
        """Listen on a unix socket in ``directory``, or on a free port of this machine without one."""
        proxy = cls(target)
        if directory is not None:
            socket = directory / f"proxy-{id(proxy):x}.sock"
            proxy._listener = await asyncio.start_unix_server(proxy._accept, socket)
            proxy.url = f"unix://{socket}"
        else:
            proxy._listener = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
            proxy.url = f"redis://127.0.0.1:{proxy._listener.sockets[0].getsockname()[1]}"
        return proxy

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return sum(flow.name == "requests" for flow in self._flows)

    def cut(self) -> None:
        self._refusing = True
        self.drop()

    def drop(self) -> None:
        for flow in tuple(self._flows):
            flow.reset()

    def black_hole(self, *, requests: bool = True, replies: bool = True) -> None:
        """Hold bytes. With ``requests=False`` the server does what it is told, and nobody hears of it."""
        for name, held in (("requests", requests), ("replies", replies)):
            if held:
                self._open[name].clear()

    def delay(self, seconds: float) -> None:
        self._delay_s = seconds

    def heal(self) -> None:
        self._refusing, self._delay_s = False, 0.0
        self._open_all()

    async def close(self) -> None:
        assert self._listener is not None
        self._listener.close()
        self.drop()
        await asyncio.gather(*(flow.task for flow in self._flows), return_exceptions=True)

    def _open_all(self) -> None:
        for gate in self._open.values():
            gate.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            return writer.transport.abort()
        try:
            server_reader, server_writer = await _connect(self._target)
        except OSError:
            return writer.transport.abort()
        if self._refusing:  # by now
            server_writer.transport.abort()
            return writer.transport.abort()
        for name, source, sink in (("requests", reader, server_writer), ("replies", server_reader, writer)):
            flow = _Flow(name, source, sink, self, Names(self.named if name == "replies" else {}))
            self._flows.add(flow)
            flow.task.add_done_callback(partial(self._forget, flow))
        return None

    def _forget(self, flow: _Flow, _task: asyncio.Task[None]) -> None:
        self._flows.discard(flow)

    async def _due(self, name: str, arrived: float) -> None:
        """Until what arrived then may go on."""
        late = arrived + self._delay_s - asyncio.get_running_loop().time()
        if late > 0:
            await asyncio.sleep(late)  # noqa: TID251 - being late is what it is for
        await self._open[name].wait()


class Proxies:
    """One client's proxies, one before each server of a topology, so that it reaches none but through them.

    Where servers tell where others are, the client reads the ports of its own proxies instead.
    """

    def __init__(self, url: str, proxies: Mapping[str, Proxy]) -> None:
        self._proxies = tuple(proxies.values())
        for target, proxy in proxies.items():
            url = url.replace(target.partition("://")[2], proxy.url.partition("://")[2])
        self.url = url

    @classmethod
    async def start(cls, url: str, servers: Sequence[Server]) -> Self:
        """For a client that would connect to ``url``."""
        proxies = {s.url: await Proxy.start(s.url, None if s.port else s.directory) for s in servers}
        ports = {server.port: urlsplit(proxies[server.url].url).port or 0 for server in servers if server.port}
        for proxy in proxies.values():
            proxy.named = ports
        return cls(url, proxies)

    def cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()

    def drop(self) -> None:
        for proxy in self._proxies:
            proxy.drop()

    def black_hole(self, *, requests: bool = True, replies: bool = True) -> None:
        for proxy in self._proxies:
            proxy.black_hole(requests=requests, replies=replies)

    def delay(self, seconds: float) -> None:
        for proxy in self._proxies:
            proxy.delay(seconds)

    def heal(self) -> None:
        for proxy in self._proxies:
            proxy.heal()

    async def close(self) -> None:
        for proxy in self._proxies:
            await proxy.close()


class Names:
    """Ports in replies, exchanged: as a number, as a text of their own, or behind an address. All have five digits."""

    def __init__(self, ports: Mapping[int, int]) -> None:
        self._ports = {str(old).encode(): str(new).encode() for old, new in ports.items()}
        assert all(len(old) == len(new) for old, new in self._ports.items()), self._ports
        alternatives = b"|".join(self._ports)
        self._pattern = re.compile(rb"(?:(?<=127\.0\.0\.1:)|(?<=^)|(?<=^:))(%s)(?!\d)" % alternatives)
        self._rest = b""

    def exchange(self, data: bytes) -> bytes:
        """What can go on by now: whole lines."""
        if not self._ports:
            return data
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        return b"".join(self._line(line) + b"\r\n" for line in lines)

    def _line(self, line: bytes) -> bytes:
        if len(line) > 6 and b"127.0.0.1:" not in line:
            return line
        return self._pattern.sub(lambda found: self._ports[found[1]], line)


class _Flow:
    """One direction of one connection. Reading goes on while writing is held."""

    def __init__(
        self, name: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter, proxy: Proxy, names: Names
    ) -> None:
        self.name, self._names = name, names
        self._source, self._sink, self._proxy = source, sink, proxy
        self._chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self.task = asyncio.create_task(self._run(), name=f"proxy-{name}")

    def reset(self) -> None:
        self._sink.transport.abort()
        self.task.cancel()

    async def _run(self) -> None:
        reading = asyncio.create_task(self._read(), name=f"proxy-{self.name}-read")
        try:
            await self._write()
        except OSError:
            pass
        finally:
            self._sink.close()
            reading.cancel()
            await asyncio.wait([reading])

    async def _read(self) -> None:
        data = b"?"
        while data:
            try:
                data = await self._source.read(1 << 16)
            except OSError:
                data = b""
            self._chunks.put_nowait((asyncio.get_running_loop().time(), data))

    async def _write(self) -> None:
        while True:
            arrived, data = await self._chunks.get()
            await self._proxy._due(self.name, arrived)
            if not data:
                return
            self._sink.write(self._names.exchange(data))
            await self._sink.drain()


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return await asyncio.open_unix_connection(unquote(parts.path))
    return await asyncio.open_connection(parts.hostname, parts.port)
