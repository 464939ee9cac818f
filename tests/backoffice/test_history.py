"""The history of commands: what it finds, that it catches up, and that it says how far it looked."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
from sqlalchemy import text

from backoffice import history, history_rows
from backoffice import records as database
from backoffice.history import History, Wanted
from backoffice.records import Records, RecordsUnavailable
from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.envelope import Step
from bridge.record import Outcome
from tests.backoffice.conftest import both_databases, serving
from tests.backoffice.service import PASSWORD, Api, backoffice, settings
from tests.recorder import Recorder
from tests.servers import Server
from tests.waiting import until


async def find(api: Api, count: int, query: str = "") -> list[dict[str, Any]]:
    """The ``count`` commands that fit, newest first, once the history has them all."""

    async def found() -> tuple[list[dict[str, Any]]] | None:
        answer = (await api.get(f"/commands?{query}")).json
        items: list[dict[str, Any]] = answer["items"]
        assert len(items) <= count, items
        return (items,) if len(items) == count and answer["complete"] else None

    [items] = await until(found, what=f"{count} commands for {query!r}")
    return items


@both_databases
async def test_commands_are_found_by_what_is_known_of_them(database_url: str, api: Api, node: Bridge) -> None:
    await api.issue("room.open", "room:lobby", {"title": "The lobby"}, wait=10)
    await api.as_("moderator").issue("member.mute", "room:lobby", {"user": "ann"}, reason="욕설 spam", wait=10)
    await api.as_("operator").issue("user.ban", "user:ann", {"seconds": 60}, wait=10)
    await api.issue("room.freeze", "room:nowhere", {}, wait=10)
    for query, types in {
        "": ["room.freeze", "user.ban", "member.mute", "room.open"],
        "type=room.open": ["room.open"],
        "subject=room:lobby": ["member.mute", "room.open"],
        "user=ann": ["user.ban", "member.mute"],
        "by=moderator": ["member.mute"],
        "state=rejected": ["room.freeze"],
        "state=done&by=admin": ["room.open"],
        "node=node-a": ["room.freeze", "user.ban", "member.mute", "room.open"],
        "text=spam": ["member.mute"],
        f"text={quote('욕설')}": ["member.mute"],
        "text=LOBBY": ["room.open"],
        "text=%25": [],
        "since=2030-01-01T00:00:00Z": [],
        "until=2020-01-01T00:00:00Z": [],
    }.items():
        assert [item["type"] for item in await find(api, len(types), query)] == types, query


@both_databases
async def test_a_command_is_there_at_once_with_its_state_as_it_is_now(database_url: str, api: Api) -> None:
    first = await api.issue("room.open", "room:lobby", {})
    [item] = await find(api, 1)
    assert (item["id"], item["state"]) == (first.json["id"], "accepted")
    assert len((await api.get("/commands?state=accepted")).json["items"]) == 1
    await api.delete(f"/commands/{first.json['id']}")

    async def cancelled() -> bool:
        return len((await api.get("/commands?state=cancelled")).json["items"]) == 1

    await until(cancelled)
    assert (await api.get("/commands?state=accepted")).json["items"] == []


@both_databases
async def test_pages_follow_each_other_without_a_gap(database_url: str, api: Api) -> None:
    ids = [(await api.issue("room.open", f"room:r{n}", {})).json["id"] for n in range(7)]
    await find(api, 7)
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.get(f"/commands?limit=3{cursor and f'&cursor={cursor}'}")).json
        assert len(page["items"]) <= 3
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert found == ids[::-1]


async def test_a_search_for_words_says_how_far_it_looked(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        await api.issue("room.open", f"room:r{number}", {}, reason=f"reason {number}")
    await find(api, 6)
    monkeypatch.setattr(history, "_SCAN_ROWS", 2)
    monkeypatch.setattr(history, "_SCAN_S", 0.0)
    looks, cursor = [], ""
    while cursor is not None:
        answer = (await api.get(f"/commands?text=reason+0{cursor and f'&cursor={cursor}'}")).json
        looks.append((len(answer["items"]), answer["complete"]))
        assert answer["searched_until"] is not None or answer["complete"]
        cursor = answer["next_cursor"]
    assert looks[:2] == [(0, False), (0, False)]
    assert sum(count for count, _ in looks) == 1
    assert looks[-1][1]


async def test_a_search_that_meets_nothing_says_how_far_it_looked(api: Api) -> None:
    async def looked(query: str) -> Any:
        answer = (await api.get(f"/commands?type=no.such{query}")).json
        assert (answer["items"], answer["next_cursor"]) == ([], None)
        return answer["searched_until"]

    assert (await looked("")).endswith("Z")
    issued = [await api.issue("room.open", f"room:r{number}", {}) for number in range(2)]
    await find(api, 2)
    first = (await api.get(f"/commands/{issued[0].json['id']}")).json["issued_at"]
    assert await looked("") == first
    assert await looked("&since=2100-01-01T00:00:00Z") == "2100-01-01T00:00:00Z"


async def test_a_command_that_the_servers_forgot_is_still_shown(api: Api, node: Bridge, server: Server) -> None:
    done = await api.issue("room.open", "room:lobby", {}, wait=10)
    await find(api, 1, "state=done")
    raw = server.client()
    for key in await raw.keys("*outcome*"):
        await raw.delete(key)
    answer = await api.get(f"/commands/{done.json['id']}")
    assert (answer.status, answer.json["state"]) == (200, "done")


@both_databases
async def test_a_new_database_reads_what_the_records_hold(
    bridge_settings: BridgeSettings, node: Bridge, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Outcome] = []
    async with Bridge.connect(bridge_settings) as bridge, Records.open(database_url) as records:
        for number in range(20):
            receipt = await bridge.publish("room.open", f"room:r{number}", {}, by="test")
            await bridge.outcome(receipt.id, wait=10)
        fresh = History(records, bridge)
        await fresh.step()
        assert await fresh.count() == 20
        again = History(records, bridge, ended=seen.extend)
        await again.step()  # whose server may have been another one for the last minute
        assert (again.progress.read, again.progress.lost) == (20, 0)
        await again.step()
        assert again.progress.read == 20
        again.reread()
        await again.step()
        assert (await again.count(), again.progress.read, again.progress.lost, seen) == (20, 40, 0, [])
        monkeypatch.setattr(history_rows, "OVERLAP_MS", -1)  # as if that minute had gone by
        later = History(records, bridge)
        await later.step()
        assert later.progress.read == 0


async def test_what_a_capped_record_does_not_tell_the_outcome_tells(
    api: Api, bridge_settings: BridgeSettings, node: Bridge, server: Server, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(history, "STALE_MS", 0)
    async with (
        Bridge.connect(bridge_settings) as bridge,
        Records.open(f"sqlite+aiosqlite:///{tmp_path}/new.sqlite3") as records,
    ):
        late = History(records, bridge)
        await late.step()
        done = (await api.issue("room.open", "room:lobby", {}, wait=10)).json
        outcome = await bridge.outcome(done["id"])
        assert outcome is not None
        late.accepted(replace(outcome, state="accepted"))
        raw = server.client()
        for key in await raw.keys("*settled*"):
            await raw.delete(key)
        await late.step()
        found = await late.search(Wanted(), limit=10)
        assert [(each.id, each.state) for each in found.outcomes] == [(done["id"], "done")]
        assert len((await late.search(Wanted(state="done"), limit=10)).outcomes) == 1


@pytest.mark.parametrize(
    "wanted",
    [Wanted(), Wanted(type="a.b"), Wanted(subject="user:u"), Wanted(user="u"), Wanted(by="x"), Wanted(state="done")],
    ids=str,
)
async def test_every_list_is_read_along_an_index(tmp_path: Path, wanted: Wanted) -> None:
    async with Records.open(f"sqlite+aiosqlite:///{tmp_path}/plan.sqlite3") as records, records.reading() as connection:
        query = history._page(wanted, (1, "1-1-1"), 100)
        compiled = query.compile(connection.sync_connection.engine, compile_kwargs={"literal_binds": True})
        plan = (await connection.execute(text(f"EXPLAIN QUERY PLAN {compiled}"))).all()
    assert "USING INDEX ix_commands" in str(plan)
    assert "TEMP B-TREE" not in str(plan)


async def test_exports_hold_everything_and_no_formulas(api: Api, node: Bridge) -> None:
    evil = '=HYPERLINK("http://x")'
    await api.issue("room.open", "room:lobby", {}, reason=evil, wait=10)
    await find(api, 1)
    lines = (await api.get("/export?what=commands")).body.splitlines()
    assert [orjson.loads(line)["reason"] for line in lines] == [evil]
    answer = await api.get("/export?what=commands&format=csv")
    [row] = csv.DictReader(io.StringIO(answer.body.decode()))
    assert (row["reason"], row["type"], row["state"]) == (f"'{evil}", "room.open", "done")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="commands.csv"'
    audit = (await api.get("/export?what=audit")).body.splitlines()
    assert [orjson.loads(line)["seq"] for line in audit] == list(range(1, len(audit) + 1))
    assert (await api.get("/export?what=dead&format=csv")).body.count(b"\n") == 1
    assert (await api.get("/export?what=people")).status == 422


async def test_an_export_is_streamed_page_by_page(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [{"type": "room.open", "subject": f"room:r{n}", "payload": {}} for n in range(25)]
    await api.post("/commands/batch", {"commands": commands})
    await find(api, 25)
    monkeypatch.setattr("backoffice.api.export._PAGE", 10)
    rows = list(csv.DictReader(io.StringIO((await api.get("/export?what=commands&format=csv")).body.decode())))
    assert len({row["id"] for row in rows}) == 25


async def test_the_history_goes_on_after_redis_was_away(own_server: Server, events: Recorder) -> None:
    config = settings(own_server.url)
    async with serving(config, events), backoffice(config) as api:
        await api.issue("room.open", "room:r1", {}, wait=10)
        own_server.kill()
        await own_server.restart()

        async def done() -> bool:
            return (await api.issue("room.open", "room:r2", {}, wait=5)).status == 200

        await until(done, 60)
        await until(lambda: _has(api, "room:r2"), 30)


async def _has(api: Api, subject: str) -> bool:
    return bool((await api.get(f"/commands?subject={subject}&state=done")).json["items"])


def ended(number: int, **values: Any) -> Outcome:
    steps = Step("accepted", number), Step("done", number)
    known = {"type": "room.open", "subject": "room:lobby", "payload": {}, "reason": None, "issued_by": "test",
             "issued_at": number, "expires_at": None, "idempotency_key": None, "origin": None, "state": "done",
             "node": None, "attempts": 1, "timeline": steps}  # fmt: skip
    return Outcome(**{"id": f"0-{number}-1", **known, **values})


async def record(bridge: Bridge, server: Server, *outcomes: Outcome) -> None:
    """As if a node had written to the record that these have ended."""
    for outcome in outcomes:
        told = asdict(outcome) | {"timeline": [astuple(step) for step in outcome.timeline]}
        del told["requeued_as"]
        await server.client().xadd(bridge.keys.settled(0), {"outcome": orjson.dumps(told)})


@both_databases
async def test_whatever_a_strangers_command_says_of_itself_is_a_row(
    bridge_settings: BridgeSettings, server: Server, database_url: str
) -> None:
    async with Bridge.connect(bridge_settings) as bridge, Records.open(database_url) as records:
        strange = ended(1, issued_by="a\0b", type="x\0y", subject="user:u\0v", reason="n\0n", node="n\0" * 90)
        await record(bridge, server, strange, ended(2, issued_at=2**64 - 1))
        fed = History(records, bridge)
        await fed.step()
        assert await fed.count() == 2
        for wanted in (Wanted(by="a\0b"), Wanted(type="x\0y"), Wanted(user="u\0v"), Wanted(text="n\0n")):
            assert (await fed.search(wanted, limit=5)).outcomes == [strange], wanted


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_one_that_the_database_will_not_take_holds_no_other_up(
    bridge_settings: BridgeSettings, server: Server, database_url: str
) -> None:
    async with Bridge.connect(bridge_settings) as bridge, Records.open(database_url) as records:
        await record(bridge, server, ended(1), ended(2, id="0" * 41), ended(3), ended(4))
        fed = History(records, bridge)
        fed.accepted(ended(5, id="1" * 41, state="accepted"))
        fed.accepted(ended(6, state="accepted"))
        await fed.step()
        assert await fed.count() == 4
        await record(bridge, server, ended(7))
        await fed.step()
        assert (await fed.count(), fed.progress.read) == (5, 5)


async def test_accepted_commands_wait_for_a_database_that_is_held_up(
    bridge_settings: BridgeSettings, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    file = tmp_path / "busy.sqlite3"
    async with Bridge.connect(bridge_settings) as bridge, Records.open(f"sqlite+aiosqlite:///{file}") as records:
        fed = History(records, bridge)
        monkeypatch.setattr(history, "MAX_WAITING", 3)
        fed.accepted(ended(1, state="accepted"))
        with closing(sqlite3.connect(file)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number in range(2, 6):
                with pytest.raises(RecordsUnavailable):
                    await fed.step()
                fed.accepted(ended(number, state="accepted"))
            other.rollback()
        await fed.step()
        found = (await fed.search(Wanted(), limit=9)).outcomes
        assert [outcome.id for outcome in found] == ["0-5-1", "0-4-1", "0-3-1"]


@both_databases
@pytest.mark.parametrize("word", ["ПРИВЕТ", "привет", "Ärger", "ÄRGER", "σοφοσ", "50%_"])
async def test_words_are_found_in_capitals_and_small_letters_of_every_language(
    bridge_settings: BridgeSettings, server: Server, database_url: str, word: str
) -> None:
    async with Bridge.connect(bridge_settings) as bridge, Records.open(database_url) as records:
        told = ended(1, reason="ПРИВЕТ, 50%_ ärgeR", payload={"text": "ΣΟΦΟΣΑ"})
        await record(bridge, server, told, ended(2, reason="500 _"))
        fed = History(records, bridge)
        await fed.step()
        assert (await fed.search(Wanted(text=word), limit=5)).outcomes == [told]


@both_databases
async def test_a_dead_command_tells_which_one_repeats_it(
    bridge_settings: BridgeSettings, server: Server, database_url: str
) -> None:
    async with Bridge.connect(bridge_settings) as bridge, Records.open(database_url) as records:
        fed = History(records, bridge)
        dead, repeat = ended(1, state="dead"), ended(2, origin="0-1-1")
        await record(bridge, server, dead, repeat)
        for _ in range(2):  # also when its record is read once more
            await fed.step()
            linked = replace(dead, requeued_as=repeat.id)
            assert (await fed.search(Wanted(), limit=5)).outcomes == [repeat, linked]
            assert await fed.get(dead.id) == linked
            fed.reread()


async def test_what_was_accepted_right_before_the_end_is_a_row(
    bridge_settings: BridgeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backoffice.app.HISTORY_S", 3600.0)  # no step comes in between
    url = f"sqlite+aiosqlite:///{tmp_path}/ended.sqlite3"
    async with backoffice(bridge_settings, database_url=url) as api:
        await until(lambda: _rebuilt(api))  # the one step is over
        accepted = await api.issue("room.open", "room:lobby", {})
        await api.stop()
    async with Records.open(url) as records, Bridge.connect(bridge_settings) as bridge:
        kept = await History(records, bridge).get(accepted.json["id"])
        assert kept is not None
        assert (kept.state, kept.subject) == ("accepted", "room:lobby")


async def _rebuilt(api: Api) -> bool:
    return b"backoffice_history_rebuilt 1.0" in (await api.get("//metrics")).body


async def test_a_step_that_is_cut_off_while_it_writes_forgets_nothing(
    bridge_settings: BridgeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/cut.sqlite3"
    async with Bridge.connect(bridge_settings) as bridge, Records.open(url) as records:
        fed, writing = History(records, bridge), asyncio.Event()
        fed.accepted(ended(1, state="accepted"))

        async def hang(_write: Any) -> None:
            writing.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(records, "transact", hang)
            step = asyncio.create_task(fed.step())
            await writing.wait()
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
        await fed.close()
        assert await fed.count() == 1


async def test_a_command_that_the_servers_lost_is_unknown_and_not_accepted_for_ever(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "STALE_MS", 100)
    monkeypatch.setattr("backoffice.missing.LOST_AFTER_S", 3600.0)
    async with backoffice(settings(server.url)) as api:
        mute = "member.mute", "room:lobby", {"user": "ann", "seconds": 77}
        kept, lost = [(await api.issue(*mute)).json["id"] for _ in range(2)]
        await find(api, 2, "state=accepted")
        shard, _, entry = lost.partition("-")
        async with Bridge.connect(settings(server.url)) as bridge:
            await server.client().xdel(bridge.keys.commands(int(shard)), entry)

        async def status(id: str) -> int:
            return (await api.get(f"/commands/{id}")).status

        assert await status(lost) == 200  # a journal may bring it back
        monkeypatch.setattr("backoffice.missing.LOST_AFTER_S", 0.0)

        async def unknown() -> bool:
            return await status(lost) == 404

        await until(unknown, 30)
        assert await status(kept) == 200
        assert (await api.delete(f"/commands/{lost}")).status == 404
        async with browsing(api) as page:
            for path in ("/commands", "/users/ann"):
                assert states(await page(path)) == {kept: "accepted", lost: "unknown"}
            shown, cancelled = await page(f"/commands/{lost}"), "Cancel the command"
            assert all(text in shown for text in (">unknown<", "&#34;seconds&#34;: 77", "Issue one like it"))
            assert cancelled in await page(f"/commands/{kept}")
            assert cancelled not in shown


async def test_a_command_that_a_journal_brought_back_is_there_at_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "STALE_MS", 100)
    monkeypatch.setattr("backoffice.missing.LOST_AFTER_S", 0.0)
    async with backoffice(settings(server.url)) as api, browsing(api) as page:
        listed, asked = [(await api.issue("room.open", f"room:{id}", {})).json["id"] for id in ("listed", "asked")]
        await find(api, 2, "state=accepted")
        raw = server.client()
        async with Bridge.connect(settings(server.url)) as bridge:
            keys = [bridge.keys.commands(int(id.partition("-")[0])) for id in (listed, asked)]
        for key, id in zip(keys, (listed, asked), strict=True):
            await raw.copy(key, f"{key}:journal")
            await raw.xdel(key, id.partition("-")[2])

        async def unknown() -> bool:
            return [(await api.get(f"/commands/{id}")).status for id in (listed, asked)] == [404, 404]

        await until(unknown, 30)
        monkeypatch.setattr(history, "STALE_MS", 3_600_000)  # no round asks for them again
        for key in keys:
            await raw.rename(f"{key}:journal", key)
        assert states(await page("/commands?q=subject:room:listed")) == {listed: "accepted"}
        assert (await api.get(f"/commands/{asked}")).json["state"] == "accepted"
        assert (await api.delete(f"/commands/{asked}")).json["state"] == "cancelled"


@asynccontextmanager
async def browsing(api: Api) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """What reads pages, logged in."""

    async with aiohttp.ClientSession(api.url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:

        async def read(path: str) -> str:
            async with browser.get(path, raise_for_status=True) as page:
                return await page.text()

        form = {"name": "admin", "password": PASSWORD, "next": "/"}
        async with browser.post("/login", data=form, headers={"Sec-Fetch-Site": "same-origin"}, raise_for_status=True):
            yield read


def states(page: str) -> dict[str, str]:
    """Of the commands that a page lists."""
    return dict(re.findall(r'id="row-([\d-]+)">\s*<td><span class="badge \w+">(\w+)<', page))
