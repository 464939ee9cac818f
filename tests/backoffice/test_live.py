"""Server-sent events: what is told, that a listener resumes, and that nobody is listened to for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from backoffice.api.live import STREAMS
from backoffice.live import KEPT, QUEUE, Live, TooSlow
from bridge.client import Bridge
from bridge.config import BridgeSettings
from tests.backoffice.service import TOKENS, Api, backoffice
from tests.backoffice.stalled import flooded, stalled
from tests.waiting import Stopwatch, until


class Stream:
    """A listener; reads one event after the other."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self, *topics: str) -> tuple[str, str, Any]:
        """The next event of these topics: its name, id and data."""
        async with asyncio.timeout(20):
            while True:
                fields = await self._event()
                if fields.get("event") in topics:
                    return fields["event"], fields.get("id", ""), orjson.loads(fields["data"])

    async def _event(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        while line := (await self.response.content.readline()).decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            fields[name] = value
        if self.response.content.at_eof():
            raise EOFError
        return fields

    async def end(self) -> None:
        async with asyncio.timeout(20):
            while await self.response.content.readany():
                pass


@asynccontextmanager
async def open_stream(
    api: Api, topics: str, role: str, after: str | None = None
) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {"Authorization": f"Bearer {TOKENS[role]}"} | ({"Last-Event-ID": after} if after else {})
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{api.url}/api/v1/live?topics={topics}") as response,
    ):
        yield response


@asynccontextmanager
async def listening(api: Api, topics: str, after: str | None = None, role: str = "viewer") -> AsyncIterator[Stream]:
    async with open_stream(api, topics, role, after) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        yield Stream(response)


async def test_what_happens_is_told_as_the_lists_tell_it(api: Api, node: Bridge) -> None:
    async with listening(api, "commands,nodes,alarms") as stream:
        _, _, nodes = await stream.next("nodes")
        if not nodes:  # of a look that began before the node did
            _, _, nodes = await stream.next("nodes")
        assert [each["name"] for each in nodes] == ["node-a"]
        issued = await api.issue("room.open", "room:lobby", {}, wait=10)
        _, _, command = await stream.next("commands")
    shown = (await api.get(f"/commands/{issued.json['id']}")).json
    assert command.items() >= {name: shown[name] for name in ("id", "state", "issued_at", "timeline", "node")}.items()


async def test_a_listener_resumes_after_what_it_heard_last(api: Api, node: Bridge) -> None:
    async with listening(api, "commands") as stream:
        for number in range(3):
            await api.issue("room.open", f"room:r{number}", {}, wait=10)
        _, id, first = await stream.next("commands")
    async with listening(api, "commands", after=id) as stream:
        heard = [(await stream.next("commands", "gap"))[2]["subject"] for _ in range(2)]
    assert [first["subject"], *heard] == ["room:r0", "room:r1", "room:r2"]


@pytest.mark.parametrize("after", ["nonsense", "0badb007-5", "-"])
async def test_who_comes_from_elsewhere_is_told_of_a_gap(api: Api, after: str) -> None:
    async with listening(api, "commands", after=after) as stream:
        assert (await stream.next("gap"))[0] == "gap"


async def test_a_room_is_heard(api: Api, node: Bridge) -> None:
    await api.issue("room.open", "room:lobby", {}, wait=10)
    async with listening(api, "room:lobby,sample") as stream:
        await stream.next("sample")
        async with asyncio.TaskGroup() as group:
            notice = group.create_task(stream.next("room:lobby"))
            await api.issue("notice.post", "room:lobby", {"text": "hello", "level": "info"}, wait=10)
        assert notice.result()[2]["data"]["text"] == "hello"


@pytest.mark.parametrize("topics", ["", "people", "room:", "room:a b", "user:ann", ",".join(["nodes"] * 11)])
async def test_unknown_topics_are_refused(api: Api, topics: str) -> None:
    answer = await api.get(f"/live?topics={topics.replace(' ', '%20')}")
    assert (answer.status, answer.json["errors"][0]["path"]) == (422, "?topics")


async def test_streams_end_when_the_service_does(api: Api) -> None:
    async with listening(api, "nodes") as stream:
        async with Stopwatch() as watch:
            await api.stop()
            await stream.end()
        assert watch.seconds < 2


async def test_so_many_streams_and_no_more(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backoffice.api.live.MAX_STREAMS", 1)
    async with listening(api, "nodes"):
        assert (await api.get("/live?topics=nodes")).status == 429


async def test_one_caller_leaves_streams_for_the_others(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backoffice.api.live.MAX_OF_ONE", 1)
    async with listening(api, "nodes"):
        answer = await api.as_("viewer").get("/live?topics=nodes")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "5")
        async with listening(api, "nodes", role="admin"):
            pass

    async def free() -> bool:
        async with open_stream(api, "nodes", "viewer") as response:
            return response.status == 200

    await until(free, what="a stream for the viewer, who has left the other one")


async def test_who_does_not_read_is_cut_off(
    bridge_settings: BridgeSettings, monkeypatch: pytest.MonkeyPatch, apps: list[web.Application]
) -> None:
    monkeypatch.setattr("backoffice.api.live.STALLED_S", 0.2)
    async with backoffice(bridge_settings) as api:
        with stalled(api, f"Authorization: Bearer {TOKENS['viewer']}"):
            await flooded(apps[0])
            await until(lambda: not apps[0][STREAMS], what="no open stream")


async def test_what_is_kept_and_what_waits_is_bounded() -> None:
    live = Live()
    slow = live.listen(["x"])
    waiting = asyncio.ensure_future(anext(slow))
    await asyncio.wait((waiting,), timeout=0)
    for number in range(KEPT + QUEUE + 10):
        live.tell("x", number)
    assert len(live._kept) == KEPT
    with pytest.raises(TooSlow):
        await waiting
    assert not live._listeners


async def test_what_stays_the_same_is_told_once() -> None:
    live = Live()
    for _ in range(3):
        live.tell_change("nodes", [1])
    live.tell_change("nodes", [2])
    assert [event.data for event in live._kept] == [b"[1]", b"[2]"]
