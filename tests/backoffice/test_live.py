"""Server-sent events: what is told, that a listener resumes, and that nobody is listened to for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from unittest.mock import ANY

import aiohttp
import orjson
import pytest
from aiohttp import web

from backoffice.api.live import STREAMS
from backoffice.live import KEPT, KEPT_BYTES, KEPT_GONE, QUEUE, Live, TooSlow
from bridge.client import Bridge
from bridge.config import BridgeSettings
from tests.backoffice.conftest import serving
from tests.backoffice.service import TOKENS, Api, backoffice, settings
from tests.backoffice.stalled import flooded, stalled
from tests.recorder import Recorder
from tests.servers import Server
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

    async def first_id(self) -> str:
        """Where the listener is before it is told anything."""
        async with asyncio.timeout(20):
            while "id" not in (fields := await self._event()):
                pass
        return fields["id"]

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
        _, _, told = await stream.next("nodes")
        listed = (await api.get("/nodes")).json["items"][0]
        assert (told["name"], set(told)) == ("node-a", set(listed))
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
        _, id, item = notice.result()
    listed = (await api.get("/rooms/lobby/history")).json["items"][0]
    assert item.items() >= listed.items()
    assert (item["type"], item["text"]) == ("notice", "hello")
    assert item["epoch"] in id


async def test_everything_that_is_published_in_a_room_has_its_form(api: Api, node: Bridge) -> None:
    async with listening(api, "room:lobby") as stream:
        await api.issue("room.open", "room:lobby", {"title": "Lobby"}, wait=10)
        await api.issue("notice.post", "room:lobby", {"text": "hello", "level": "info"}, wait=10)
        shown = (await api.get("/rooms/lobby/history")).json["items"][0]["message_id"]
        await api.issue("message.delete", "room:lobby", {"message_ids": [shown]}, wait=10)
        items = [(await stream.next("room:lobby", "gap"))[2] for _ in range(3)]
    assert [(item["type"], item["offset"]) for item in items] == [("room", 1), ("notice", 2), ("deleted", 3)]
    assert len({item["epoch"] for item in items}) == 1
    assert all(datetime.fromisoformat(item["ts"]).tzinfo for item in items)
    assert items[0].items() >= {"state": "open", "slow_mode_s": 0, "title": "Lobby"}.items()
    assert items[2].items() >= {"message_ids": [shown], "deleted_by": "admin"}.items()


async def notices(api: Api, room: str, *texts: str) -> None:
    for text in texts:
        await api.issue("notice.post", f"room:{room}", {"text": text, "level": "info"}, wait=10)


async def test_rooms_are_resumed_each_where_its_listener_was(api: Api, node: Bridge) -> None:
    topics = "room:attic,commands,room:lobby"
    async with listening(api, topics) as stream:
        await notices(api, "lobby", "l1")
        _, id, _ = await stream.next("room:lobby")
    await notices(api, "attic", "a1", "a2")
    await notices(api, "lobby", "l2")
    async with listening(api, topics, after=id) as stream:
        told = [await stream.next("room:attic", "room:lobby", "gap") for _ in range(3)]
        assert {(name, item.get("text")) for name, _, item in told} == {
            ("room:attic", "a1"), ("room:attic", "a2"), ("room:lobby", "l2")}  # fmt: skip
    async with listening(api, topics, after=told[-1][1]) as stream:
        await notices(api, "lobby", "l3")
        name, _, item = await stream.next("room:attic", "room:lobby", "gap")
        assert (name, item.get("text")) == ("room:lobby", "l3")


async def test_who_comes_again_before_anything_was_told_misses_nothing(api: Api, node: Bridge) -> None:
    async with listening(api, "room:lobby,commands") as stream:
        id = await stream.first_id()
    await notices(api, "lobby", "hello")
    async with listening(api, "room:lobby,commands", after=id) as stream:
        told = [await stream.next("room:lobby", "commands", "gap") for _ in range(2)]
    assert {name for name, _, _ in told} == {"room:lobby", "commands"}


BAD_PLACES = ["", "x", "lobby=", "lobby=:5", "lobby={epoch}:999999999", "lobby=0000:1", "lobby={epoch}:" + "9" * 16,
              "lobby=%00:1", "attic={epoch}:1", "lobby={epoch}:1" + "x" * 5000]  # fmt: skip


async def test_a_room_of_which_something_was_missed_has_a_gap(api: Api, node: Bridge) -> None:
    await notices(api, "lobby", "one")
    async with listening(api, "room:lobby") as stream:
        await notices(api, "lobby", "two")
        _, id, item = await stream.next("room:lobby")
    for place in (each.replace("{epoch}", item["epoch"]) for each in BAD_PLACES):
        async with listening(api, "room:lobby", after=f"{id.partition(',')[0]},{place}") as stream:
            assert await stream.next("room:lobby", "gap") == ("gap", ANY, {"topics": ["room:lobby"]}), place
    async with listening(api, "room:lobby", after=f"{id.partition(',')[0]},lobby={item['epoch']}:1") as stream:
        assert (await stream.next("room:lobby", "gap"))[2]["text"] == "two"


async def test_what_a_rooms_log_has_no_more_is_a_gap(server: Server, events: Recorder) -> None:
    config = settings(server.url, history_length=3)
    async with serving(config, events), backoffice(config) as api:
        async with listening(api, "room:lobby") as stream:
            await notices(api, "lobby", "first")
            _, id, _ = await stream.next("room:lobby")
        many = {"type": "notice.post", "subject": "room:lobby", "payload": {"text": "more", "level": "info"}}
        await api.post("/commands/batch", {"commands": [many] * 300})
        await notices(api, "lobby", "last")
        async with listening(api, "room:lobby", after=id) as stream:
            assert (await stream.next("room:lobby", "gap"))[0] == "gap"
            assert (await stream.next("room:lobby", "gap"))[0] == "room:lobby"


async def test_each_alarm_node_and_shard_is_told_by_itself(
    api: Api, bridge_settings: BridgeSettings, events: Recorder
) -> None:
    async with listening(api, "alarms,nodes,shards") as stream:
        shards = {(await stream.next("shards"))[2]["shard"] for _ in range(bridge_settings.shards)}
        assert shards == set(range(bridge_settings.shards))
        _, _, alarm = await stream.next("alarms")
        assert (alarm["code"], "cleared_at" in alarm) == ("no_nodes", False)
        async with serving(bridge_settings, events):
            while "cleared_at" not in alarm:
                _, _, alarm = await stream.next("alarms")
            assert alarm["code"] == "no_nodes"
        node: dict[str, Any] = {}
        while "gone_at" not in node:
            _, _, node = await stream.next("nodes")
        assert (node["name"], node["state"], node["shards"]) == ("node-a", "dead", [])


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
    slow = live.listen(["x"], live.place(None))
    waiting = asyncio.ensure_future(anext(slow))
    await asyncio.wait((waiting,), timeout=0)
    for number in range(KEPT + QUEUE + 10):
        live.tell("x", number)
    assert len(live._kept["x"]) == KEPT
    with pytest.raises(TooSlow):
        await waiting
    assert not live._listeners


async def test_what_is_kept_is_bounded_in_bytes_too_and_what_is_kept_no_more_is_a_gap() -> None:
    live = Live()
    place = live.place(None)
    big = "x" * (KEPT_BYTES // 4 - 2)  # and two quotes
    for number in range(10):
        live.tell("commands", big)
        assert sum(len(event.data) for event in live._kept["commands"]) == min(number + 1, 4) * (KEPT_BYTES // 4)
    live.tell("sample", "small")
    assert [event and event[0] for event in await heard(live, ["commands", "sample"], place, 6)] == [
        None, *["commands"] * 4, "sample"
    ]  # fmt: skip
    assert await heard(live, ["sample"], place, 1) == [("sample", '"small"')]
    live.tell("commands", big * 5)
    assert not live._kept["commands"]
    assert await heard(live, ["commands"], place, 1) == [None]


def going(item: int) -> list[int]:
    return [item, 0]


async def heard(live: Live, topics: list[str], after: str, number: int) -> list[tuple[str, str] | None]:
    """The next events: topic and data."""
    listener = live.listen(topics, after)
    async with asyncio.timeout(20):
        found = [await anext(listener) for _ in range(number)]
    await listener.aclose()
    return [None if event is None else (event.topic, event.data.decode()) for event in found]


async def test_only_what_changed_is_told_again() -> None:
    live = Live()
    live.tell_things("nodes", {"a": 1, "b": 1}, going)
    start = live.place(None)
    for _ in range(3):
        live.tell_things("nodes", {"a": 1, "b": 2}, going)
    live.tell_things("nodes", {"a": 1}, going)
    live.tell("end", "now")
    assert await heard(live, ["nodes", "end"], start, 3) == [("nodes", "1"), ("nodes", "[2,0]"), ("end", '"now"')]
    assert await heard(live, ["nodes"], live.place(None), 1) == [("nodes", "1")]


async def test_who_is_slow_hears_the_latest_of_each_thing_and_all_that_happened_once() -> None:
    live = Live()
    listener = live.listen(["shards", "commands"], live.place(None))
    first = asyncio.ensure_future(anext(listener))
    await asyncio.wait((first,), timeout=0)
    for number in range(QUEUE):
        live.tell_things("shards", {str(shard): number for shard in range(100)}, going)
        live.tell("commands", number)
    events = [await first] + [await anext(listener) for _ in range(100 + QUEUE - 1)]
    await listener.aclose()
    assert [event.data for event in events if event and event.topic == "commands"] == [b"%d" % n for n in range(QUEUE)]
    assert {event.data for event in events if event and event.topic == "shards"} == {b"%d" % (QUEUE - 1)}


async def test_no_topic_crowds_another_one_out_and_what_one_forgets_is_a_gap_for_who_did_not_hear_it() -> None:
    live = Live()
    live.tell("commands", "kept")
    place = live.place(None)
    for number in range(KEPT + 1):
        live.tell("sample", number)
    live.tell("commands", "last")
    assert await heard(live, ["commands"], place, 1) == [("commands", '"last"')]
    assert await heard(live, ["commands"], f"{live.boot}-0", 2) == [("commands", '"kept"'), ("commands", '"last"')]
    assert await heard(live, ["sample"], place, 2) == [None, ("sample", "1")]


async def test_who_missed_what_went_does_not_hear_again_what_it_heard() -> None:
    live = Live()
    live.tell("commands", "heard")
    place = live.place(None)
    for number in range(KEPT_GONE + 2):
        live.tell_things("nodes", {str(number): number}, going)
    live.tell("commands", "new")
    told = await heard(live, ["commands", "nodes"], place, KEPT_GONE + 3)
    assert told[0] is None
    assert [event for event in told[1:] if event and event[0] == "commands"] == [("commands", '"new"')]


async def test_so_many_things_that_went_are_known_and_no_more() -> None:
    live = Live()
    place = live.place(None)
    for number in range(KEPT_GONE + 2):
        live.tell_things("nodes", {str(number): number}, going)
    first = await heard(live, ["nodes"], place, 2)
    assert first == [None, ("nodes", "[1,0]")]
