"""Clients that mean harm: each is cut, and what it can make the node hold is bounded."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.frames import CLOSE, CONT, PING, TEXT, Opcode

from chatserver.connection import LAST_BYTES, MAX_HANDSHAKE_BYTES, OUTBOX_BYTES
from tests.chatserver.client import token
from tests.chatserver.conftest import Chat, RunningNode
from tests.waiting import until

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: bridge.v1\r\n\r\n"
)


class Raw:
    """A socket that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def rest(self) -> bytes:
        """Everything until the server ends it."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), 20)
        except ConnectionError:
            return b""

    async def upgraded(self) -> None:
        self.writer.write(UPGRADE)
        assert b" 101 " in await self.reader.readuntil(b"\r\n\r\n")


@asynccontextmanager
async def raw(node: RunningNode) -> AsyncIterator[Raw]:
    host, port = node.http.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def frame(opcode: Opcode, body: bytes = b"", *, final: bool = True) -> bytes:
    """As a client masks it, with a mask of zeros."""
    head = struct.pack("!B", opcode | (0x80 if final else 0))
    size = len(body)
    length = struct.pack("!B", 0x80 | size) if size < 126 else struct.pack("!BH", 0x80 | 126, size)
    return head + length + bytes(4) + body


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600) + b"\n", b"HTTP/1.1 400 "),
        (b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 "),
        (b"GET /ws HTTP/1.1\r\n" + b"X: " + b"x" * MAX_HANDSHAKE_BYTES, b"HTTP/1.1 4"),
        (b"GET /ws HTTP/1.1\r\n" + b"X: yz\r\n" * (MAX_HANDSHAKE_BYTES // 6), b"HTTP/1.1 431 "),
    ],
    ids=["TLS", "SSH", "one endless header", "endless headers"],
)
async def test_what_is_no_handshake_is_answered_and_cut(node: RunningNode, sent: bytes, answer: bytes) -> None:
    async with raw(node) as client:
        client.writer.write(sent)
        assert (await client.rest()).startswith(answer)
    await until(lambda: len(node.node._handshakes) == 0)


async def test_the_oldest_of_too_many_handshakes_is_cut(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatserver.connection.MAX_HANDSHAKES", 2)
    async with raw(node) as first, raw(node) as second:
        await until(lambda: len(node.node._handshakes) == 2)
        async with raw(node) as third:
            assert await first.rest() == b""
            for client in (second, third):
                await client.upgraded()
    await until(lambda: len(node.node._handshakes) == 0)


async def test_handshakes_do_not_outlive_the_node(chat: Chat) -> None:
    node = await chat.start_node(drain_seconds=30)
    async with raw(node) as client:
        await until(lambda: len(node.node._handshakes) == 1)
        await asyncio.wait_for(node.stop(), 14)  # clients have 15
        assert await client.rest() == b""


@pytest.mark.parametrize("unit", [frame(PING), frame(PING, bytes(125))], ids=["empty pings", "large pings"])
async def test_a_flood_of_pings_is_cut_before_it_is_answered(chat: Chat, unit: bytes) -> None:
    """The layer below would take all that one read of the socket brings apart and answer it."""
    node = await chat.start_node(messages_per_s=20)
    async with raw(node) as client:
        await client.upgraded()
        (here,) = node.node.hub.clients
        answered = 0
        write = here.socket.transport.write

        def count(data: bytes) -> None:
            nonlocal answered
            answered += data[:1] == b"\x8a"
            write(data)

        here.socket.transport.write = count  # type: ignore[method-assign]
        here.socket.data_received(unit * (256 * 1024 // len(unit)))
        assert here.socket.closed_with == 4005
        assert answered < 1500
        assert here.socket.transport.get_write_buffer_size() <= OUTBOX_BYTES
        await until(lambda: not node.node.hub.clients)


async def test_a_client_has_a_moment_for_its_own_close_frame_and_nothing_else_is_answered(
    chat: Chat, node: RunningNode
) -> None:
    """The end of the stream right behind ours would make some clients report 1006."""
    async with raw(node) as client:
        await client.upgraded()
        client.writer.write(frame(TEXT, b'{"type": "auth", "id": 1, "token": "%s"}' % token("u1").encode()))
        await client.reader.readuntil(b'"type":"ready"')
        await chat.done("user.kick", "user:u1")
        await client.reader.readuntil(struct.pack("!H", 4503) + b"kicked")
        client.writer.write(frame(PING, b"after"))
        other = await chat.client(node, "u2", "lobby")  # the node has had time for both
        await other.ask("ping")
        assert not client.reader.at_eof()
        client.writer.write(frame(CLOSE, struct.pack("!H", 4503)))
        assert await client.rest() == b""


async def test_who_broke_the_rules_has_a_moment_to_read_so(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.connection.LAST_S", 30.0)
    monkeypatch.setattr("chatserver.connection.CLOSE_TIMEOUT_S", 60.0)
    async with raw(node) as client:
        await client.upgraded()
        client.writer.write(frame(TEXT, b"x" * 20_000))
        await client.reader.readuntil(struct.pack("!H", 1009))
        other = await chat.client(node, "u2", "lobby")
        await other.ask("ping")
        assert not client.reader.at_eof()


async def test_who_goes_on_sending_after_the_close_is_not_listened_to_for_long(chat: Chat, node: RunningNode) -> None:
    async with raw(node) as client:
        await client.upgraded()
        (here,) = node.node.hub.clients
        here.socket.shut(4503, "kicked")
        client.writer.write(frame(TEXT, bytes(4000)) * (2 * LAST_BYTES // 4000))
        heard = await client.rest()
        assert heard.endswith(struct.pack("!H", 4503) + b"kicked")
        assert here.socket.protocol.eof_sent


async def test_fragments_count_as_frames(node: RunningNode) -> None:
    async with raw(node) as client:
        await client.upgraded()
        client.writer.write(frame(TEXT, b"{", final=False) + frame(CONT, final=False) * 40_000)
        (here,) = node.node.hub.clients
        await until(lambda: here.socket.closed_with == 4005)


async def test_a_message_may_come_in_fragments_up_to_its_size(node: RunningNode) -> None:
    async with raw(node) as client:
        await client.upgraded()
        text = b'{"type": "auth", "id": 1, "token": "%s"}' % token("u1").encode()
        client.writer.write(frame(TEXT, text[:20], final=False) + frame(CONT, text[20:]))
        heard = b""
        while b'"type":"ready"' not in heard:
            heard += await asyncio.wait_for(client.reader.read(4096), 10)
        client.writer.write(frame(TEXT, b"x" * 10_000, final=False) + frame(CONT, b"x" * 10_000))
        assert struct.pack("!H", 1009) in await client.rest()


async def test_what_the_kernel_keeps_for_a_client_is_bounded(chat: Chat, node: RunningNode) -> None:
    """It would take megabytes by itself before the node noticed that nobody reads."""
    deaf = await chat.client(node, "deaf", "lobby")
    deaf.socket.transport.pause_reading()
    (here,) = node.node.hub.clients
    pushed, unit = 0, bytes(1024)
    while not here.socket.paused:
        here.socket.push(unit)
        pushed += len(unit)
        assert pushed < 4 << 20
    assert pushed < 1 << 20
    deaf.socket.transport.abort()


async def test_who_does_not_read_is_closed_though_little_is_said(
    chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.connection.STALLED_S", 0.2)
    deaf, other = await chat.client(node, "deaf", "lobby"), await chat.client(node, "u2", "lobby")
    deaf.socket.transport.pause_reading()
    here = next(client for client in node.node.hub.clients if client.user == "deaf")

    def closed() -> bool:
        while here.socket.is_open and not here.socket.paused:  # the kernels take some more after each
            here.socket.push(bytes(1024))
        return here.socket.closed_with == 4001

    await until(closed)
    assert (await other.ask("ping"))["type"] == "pong"
    deaf.socket.transport.abort()


async def test_who_reads_again_in_time_stays(chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatserver.connection.STALLED_S", 60.0)
    client = await chat.client(node, "u1", "lobby")
    client.socket.transport.pause_reading()
    (here,) = node.node.hub.clients
    notice = b'{"type":"notice","room":null,"level":"info","text":"%d","seconds":null}'
    n = 0
    while not here.socket.paused:
        body = notice % n + b" " * 1000
        here.socket.push(struct.pack("!BBH", 0x81, 126, len(body)) + body)
        n += 1
    client.socket.transport.resume_reading()
    assert (await client.ask("ping"))["type"] == "pong"
    assert len(client.seen("notice")) == n
    here.socket.look(asyncio.get_running_loop().time() + 100)
    assert here.socket.closed_with is None


@pytest.mark.timeout(180)
async def test_the_node_holds_little_for_hostile_clients_and_all_are_cut(
    chat: Chat, node: RunningNode, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in what the node keeps, not in time: bench/hostile measures that."""
    monkeypatch.setattr("chatserver.connection.STALLED_S", 1.0)
    count = 50 if full else 10
    speaker = await chat.client(node, "speaker", "lobby")
    deaf = [await chat.client(node, f"deaf{i}", "lobby") for i in range(count)]
    for client in deaf:
        client.socket.transport.pause_reading()
    sockets = [client.socket for client in node.node.hub.clients if client.user.startswith("deaf")]
    most = 0
    while any(socket.closed_with is None for socket in sockets):
        said = await speaker.say("lobby", "글" * 500)
        if said["type"] == "error":
            assert said["temporary"], said
            continue
        await speaker.push("message")
        most = max(most, sum(socket.transport.get_write_buffer_size() for socket in sockets))
    assert {socket.closed_with for socket in sockets} == {4001}
    assert most <= count * (OUTBOX_BYTES + 16 * 1024)
    await until(lambda: len(node.node.hub.clients) == 1)
    for client in deaf:
        client.socket.transport.abort()
