"""Fan-out: a message to everybody in a room, by one node, against ``websockets.broadcast()``.

As ``python -m bench.fanout URL LOOP broadcast`` it is the server to compare with: told by the same publication, it
makes the same frame and hands it to ``broadcast()``. With ``write`` instead it makes one system call for each member
and does nothing else: what any server in Python can come to.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from importlib import import_module

import orjson
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.frames import Frame, Opcode

from bench.crowd import END, chat_node, cpu_s, on_uvloop, open_rooms
from bench.measure import Child, Figures, Row, Session, child, heard, say
from bench.workload import redis_py, redis_server
from bridge.channels import Channel
from bridge.client import Bridge

CLIENTS = (1000, 2000)
DELIVERIES = 40_000  # of a round
BAR = 1.5
BUSY, CALM = "more messages than it has time for", "one message after the other"
LEAST = f"{CALM}, by a program that makes the system calls and does nothing else"
_TEXT = "the lantern with the blue glass goes to whoever has the best costume at midnight " + END

Publish = Callable[[], Awaitable[object]]


async def bench(session: Session) -> AsyncIterator[Row]:
    async with redis_server() as server, Bridge.connect(server.url) as bridge, redis_py(server.url) as client:
        said = {"user": "u0", "name": "u0", "text": _TEXT}
        publication = {"channel": "room:r0", "epoch": "e", "offset": 1, "type": "message", "at": 1, "data": said}
        room = Channel.of_subject("room:r0", bridge.shards)
        loop = "uvloop" if on_uvloop() else "asyncio"
        for clients in CLIENTS:
            async with (
                chat_node(server.url) as node,
                child("bench.fanout", server.url, loop, "broadcast") as theirs,
                child("bench.fanout", server.url, loop, "write") as least,
            ):
                # The history is told to whoever joins, and would be counted.
                await bridge.redis.call("DEL", bridge.keys.log(room.shard, room.name))
                await open_rooms(bridge, 1)
                (their_url, their_pid), (least_url, least_pid) = await theirs.hear(), await least.hear()
                async with (
                    child("bench.crowd", node.told["url"], str(clients), "1") as our_crowd,
                    child("bench.crowd", their_url, str(clients), "0") as their_crowd,
                    child("bench.crowd", least_url, str(clients), "0") as least_crowd,
                ):
                    await asyncio.gather(our_crowd.hear(), their_crowd.hear(), least_crowd.hear())
                    messages = session.some(DELIVERIES / clients, 5)
                    our_side = Side(node.pid, our_crowd, partial(bridge.channels.publish, room, "message", said))
                    packed = orjson.dumps(publication)
                    their_side = Side(their_pid, their_crowd, partial(client.spublish, "broadcast", packed))
                    least_side = Side(least_pid, least_crowd, partial(client.spublish, "write", packed))
                    for side, way, name, bar in (
                        (our_side, BUSY, BUSY, BAR), (our_side, CALM, CALM, BAR), (least_side, CALM, LEAST, None),
                    ):  # fmt: skip
                        spent: dict[str, list[float]] = {"candidate": [], "baseline": []}
                        figures = await session.rounds(
                            f"fanout: {clients} clients, {name}",
                            partial(side.tell, messages, clients, way, spent["candidate"]),
                            partial(their_side.tell, messages, clients, way, spent["baseline"]),
                        )
                        rates = map(_rates, spent.values())
                        case = f"{clients:,} clients, {name}"
                        yield Row("fanout", f"{case}: deliveries a second of processor time", "per s", *rates, bar)
                        yield Row("fanout", f"{case}: by the clock", "per s", *figures)


def _rates(seconds: list[float]) -> Figures:
    return Figures(tuple(1 / each for each in seconds))


class Side:
    """One server with its clients."""

    def __init__(self, pid: int, crowd: Child, publish: Publish) -> None:
        self._pid, self._crowd, self._publish = pid, crowd, publish

    async def tell(self, messages: int, clients: int, way: str, spent: list[float]) -> float:
        """Deliveries a second; ``spent`` gets the server's seconds of processor time for one."""
        cpu, began = cpu_s(self._pid), time.perf_counter()
        together = messages if way == BUSY else 1
        for _ in range(0, messages, together):
            self._crowd.tell(together * clients)
            await self._crowd.hear()
            for _ in range(together):
                await self._publish()
            done = (await self._crowd.hear())["at"]
        spent.append((cpu_s(self._pid) - cpu) / (messages * clients))
        return messages * clients / (done - began)


async def _theirs(url: str, channel: str) -> None:
    tell = {"broadcast": broadcast, "write": _write}[channel]
    connections: set[ServerConnection] = set()

    async def connected(connection: ServerConnection) -> None:
        connections.add(connection)
        await connection.wait_closed()
        connections.discard(connection)

    async with redis_py(url) as client, client.pubsub() as subscription:
        await subscription.execute_command("SSUBSCRIBE", channel)
        await subscription.parse_response()
        async with serve(connected, "127.0.0.1", 0, compression=None, ping_interval=None, subprotocols=None) as server:
            say([f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws", os.getpid()])
            ending = asyncio.ensure_future(heard())
            while not ending.done():
                told = orjson.loads((await subscription.parse_response())[2])
                push = {
                    "type": "message", "room": "r0", "epoch": told["epoch"], "offset": told["offset"],
                    **told["data"], "ts": told["at"],
                }  # fmt: skip
                tell(connections, orjson.dumps(push).decode())


def _write(connections: Iterable[ServerConnection], message: str) -> None:
    frame = Frame(Opcode.TEXT, message.encode()).serialize(mask=False)
    for connection in connections:
        os.write(connection.transport.get_extra_info("socket").fileno(), frame)


if __name__ == "__main__":
    factory = import_module("uvloop").new_event_loop if sys.argv[2] == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_theirs(sys.argv[1], sys.argv[3]))
