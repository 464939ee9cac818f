"""Clients of a node that ends or drains go elsewhere, in groups, and miss nothing."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from itertools import pairwise

import pytest

from bridge.client import Bridge
from chatserver.connection import Connection
from chatserver.handover import GROUP, PAUSE_S, schedule
from tests.chatserver.client import signed_in
from tests.chatserver.conftest import Chat
from tests.chatserver.process import Spawn, settings
from tests.chatserver.traveller import Traveller
from tests.faults.pace import elapsed
from tests.figures import Figures, spread
from tests.servers import Server
from tests.waiting import until


@pytest.mark.parametrize(
    ("clients", "within_s", "groups"),
    [(0, 10, 0), (1, 10, 1), (GROUP, 10, 1), (GROUP + 1, 10, 2), (1000, 10, 20), (10_000, 10, 41), (1000, 0.1, 1)],
)
def test_groups_are_small_and_fit_the_time(clients: int, within_s: float, groups: int) -> None:
    planned = schedule(clients, within_s, random.Random(1))
    assert len(planned) == groups
    assert sum(size for _, size in planned) == clients
    times = [at for at, _ in planned]
    assert times == sorted(times)
    assert all(0 <= at <= within_s for at in times)
    assert times[:1] in ([], [0.0])


def test_two_nodes_do_not_send_their_groups_together() -> None:
    one, other = (schedule(1000, 10, random.Random(seed)) for seed in (1, 2))
    assert not {at for at, _ in one[1:-1]} & {at for at, _ in other[1:-1]}


async def test_the_next_group_goes_later_than_the_first(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatserver.handover.GROUP", 2)
    node = await chat.start_node()
    for i in range(6):
        await chat.client(node, f"u{i}")
    clients, gone_at = list(node.node.hub.clients), list[float]()
    shut = Connection.shut

    def note(connection: Connection, code: int, reason: str) -> None:
        gone_at.append(asyncio.get_running_loop().time())
        shut(connection, code, reason)

    monkeypatch.setattr(Connection, "shut", note)
    node.stopping.set()
    await until(lambda: not any(client.socket.is_open for client in clients))
    pauses = [after - before for before, after in pairwise(gone_at)]
    assert [pause > PAUSE_S / 4 for pause in pauses] == [False, True, False, True, False]
    assert {client.socket.closed_with for client in clients} == {1012}


async def test_whoever_is_still_here_when_the_order_is_taken_back_may_stay(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.handover.GROUP", 1)
    monkeypatch.setattr("chatserver.handover.PAUSE_S", 2.5)
    node = await chat.start_node()
    clients = [await chat.client(node, f"u{i}") for i in range(3)]
    here = list(node.node.hub.clients)
    await chat.bridge.drain("node-a", True)
    await until(lambda: not all(client.socket.is_open for client in here))
    await chat.bridge.drain("node-a", False)
    await until(lambda: not node.node._handover._passing.locked(), 20)
    staying = {client.user for client in here if client.socket.is_open}
    assert staying
    for client in clients:
        if client.user in staying:
            assert (await client.ask("ping"))["type"] == "pong"


async def test_a_node_ends_in_time_though_its_clients_do_not_read(server: Server, spawn: Spawn) -> None:
    process = spawn(**settings(server, CHATSERVER_DRAIN_SECONDS="2"))
    url = (await process.ready())["url"]
    host, port = url.removeprefix("ws://").removesuffix("/ws").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))  # never asks for anything
    async with signed_in(url, "deaf") as deaf:
        deaf.socket.transport.pause_reading()
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert time.monotonic() - began < 2 + 20
        assert "Traceback" not in process.errors
        deaf.socket.transport.resume_reading()
        assert await deaf.close_code() == 1012
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.timeout(300)
async def test_all_clients_move_and_miss_nothing(server: Server, spawn: Spawn, full: bool, figures: Figures) -> None:
    first = spawn(**settings(server, CHATSERVER_NODE_NAME="node-1", CHATSERVER_MESSAGES_PER_S="1000"))
    second = spawn(**settings(server, CHATSERVER_NODE_NAME="node-2", CHATSERVER_MESSAGES_PER_S="1000"))
    one, other = [(await process.ready())["url"] for process in (first, second)]
    async with Bridge.connect(server.url, shards=4) as operator, asyncio.TaskGroup() as background:
        receipt = await operator.publish("room.open", "room:lobby", {}, by="op")
        assert await operator.outcome(receipt.id, wait=10)
        travellers = [Traveller(f"t{i}", "lobby", [one, other]) for i in range(1000 if full else 100)]
        running = []
        for start in range(0, len(travellers), 50):
            group = travellers[start : start + 50]
            running += [background.create_task(each.run()) for each in group]
            await until(lambda group=group: all(each.position for each in group), 30, what="they joined")
        async with signed_in(other, "speaker", "lobby") as speaker:
            last = 0

            async def speak() -> None:
                nonlocal last
                while True:
                    last = (await speaker.say("lobby", f"message {last + 1}"))["offset"]
                    await elapsed(10 / len(travellers))

            speaking = background.create_task(speak())
            await until(lambda: all(each.stays[0] for each in travellers), 30, what="they hear")
            began = time.monotonic()
            first.popen.send_signal(signal.SIGTERM)
            assert await first.ended() == 0
            took = time.monotonic() - began
            await until(lambda: all(each.moves for each in travellers), 60, what="they are elsewhere")
            speaking.cancel()
            await asyncio.wait((speaking,))
            await until(lambda: all(each.at >= last for each in travellers), 30, what="they have everything")
        for task in running:
            task.cancel()
    assert {tuple(each.codes) for each in travellers} == {(1012,)}
    assert all(len(each.told) == 1 and 0 <= each.told[0]["after_ms"] < 2000 for each in travellers)
    assert all(each.moves[0]["recovered"] for each in travellers)
    assert not [each.user for each in travellers if each.holes()]
    figures.report(
        "SIGTERM of a node with clients", clients=len(travellers), messages=last, ended_after_s=round(took, 2),
        read_on=spread([float(len(each.moves[0]["messages"])) for each in travellers]),
    )  # fmt: skip
