"""The audit chain while its database is locked, stopped or refuses an entry, and while callers leave."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
from sqlalchemy import select, text

from backoffice.access import PLAIN_COOKIE
from backoffice.api import commands
from backoffice.audit import NOT_BEGUN, Audit
from backoffice.audit_rows import Act
from backoffice.records import Records, RecordsUnavailable
from backoffice.tables import audit
from bridge.chain import Verifier
from bridge.config import BridgeSettings
from bridge.keys import Keys
from tests.backoffice.audited import audited, entries_of
from tests.backoffice.conftest import both_databases
from tests.backoffice.service import Api, backoffice
from tests.postgres import processes
from tests.servers import Server
from tests.waiting import until

ROOM = {"type": "room.open", "subject": "room:lobby", "payload": {}}


@pytest.fixture
async def records(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Records]:
    monkeypatch.setattr("backoffice.records.BUSY_S", 3.0)
    async with Records.open(database_url) as records:
        yield records


@pytest.fixture
async def chain(records: Records) -> AsyncIterator[Audit]:
    chain = Audit(records, "office")
    task = asyncio.create_task(chain.run())
    yield chain
    task.cancel()
    await asyncio.wait((task,))


@asynccontextmanager
async def locked(url: str) -> AsyncIterator[None]:
    """Another process has the table, and nobody else can write to it."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.partition("///")[2])) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.rollback()
        return
    async with Records.open(url) as other_office, other_office.writing() as connection:
        await connection.execute(text("LOCK TABLE audit IN EXCLUSIVE MODE"))
        yield


def act(**changes: Any) -> Act:
    plain = Act("ann", "rooms.freeze", "room:r0", "127.0.0.1", "request", "spam", {})
    return plain._replace(**changes)


async def told(records: Records) -> list[tuple[str, str]]:
    """Target and result of each entry."""
    async with records.reading() as connection:
        found = await connection.execute(select(audit.c.target, audit.c.result).order_by(audit.c.seq))
        return [(row.target, row.result) for row in found]


async def becomes(records: Records, *expected: tuple[str, str]) -> None:
    async def is_so() -> bool:
        found = await told(records)
        assert len(found) <= len(expected), found
        return found == list(expected)

    await until(is_so, 30)


async def holds(records: Records) -> bool:
    verifier = Verifier()
    async with records.reading() as connection:
        async for entry in entries_of(connection):
            verifier.look(entry)
    return not verifier.broken


@pytest.mark.parametrize(
    ("database_url", "action"),
    [("sqlite", "\udcff"), ("postgresql", "\udcff"), ("postgresql", "\0")],
    indirect=["database_url"],
)
async def test_an_entry_that_no_database_takes_fails_alone(records: Records, chain: Audit, action: str) -> None:
    acts = (act(target="room:r1"), act(action=action), act(target="room:r2"))
    first, bad, last = await asyncio.gather(*(chain.intend([each]) for each in acts), return_exceptions=True)
    assert isinstance(first, list), first
    assert isinstance(last, list), last
    assert isinstance(bad, RecordsUnavailable)
    async with asyncio.timeout(10):
        [intent] = await chain.intend([act(target="room:r3")])
    chain.conclude(intent, "done")
    await becomes(records, *((f"room:r{n}", "intended") for n in (1, 2, 3)), ("room:r3", "done"))
    assert await holds(records)


@both_databases
async def test_whatever_callers_send_has_its_entry(records: Records, chain: Audit) -> None:
    odd = "a\0b\udcff"
    await chain.intend([act(by=odd, target=odd, reason=odd, address=odd)])
    async with records.reading() as connection:
        [entry] = [entry async for entry in entries_of(connection)]
    assert {entry.by, entry.target, entry.reason, entry.address} == {"a\ufffdb?"}
    assert await holds(records)


@both_databases
async def test_results_wait_for_a_database_that_is_away(records: Records, chain: Audit, database_url: str) -> None:
    [intent] = await chain.intend([act()])
    async with locked(database_url):
        chain.conclude(intent, "accepted 1-2-3")
        await until(lambda: chain._kept, 30)
    await becomes(records, ("room:r0", "intended"), ("room:r0", "accepted 1-2-3"))


@both_databases
async def test_callers_hear_of_a_database_that_does_not_answer(
    records: Records, chain: Audit, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backoffice.audit.ANSWER_S", 0.1)
    async with locked(database_url):
        first = asyncio.create_task(chain.intend([act(target="room:r1")]))
        await until(records._writing.locked)
        second = asyncio.create_task(chain.intend([act(target="room:r2")]))
        for caller in (first, second):
            with pytest.raises(RecordsUnavailable, match="does not answer"):
                await caller
    monkeypatch.undo()
    await until(lambda: intended(chain), 30)
    found = await told(records)
    assert ("room:r2", "intended") not in found  # its turn came after its caller had gone
    if ("room:r1", "intended") in found:  # the lock went before the database gave up
        await until(lambda: stands(records, "room:r1", NOT_BEGUN), 30)


@both_databases
async def test_intents_whose_callers_left_are_not_there_or_have_a_result(
    records: Records, chain: Audit, database_url: str
) -> None:
    async with locked(database_url):
        first = asyncio.create_task(chain.intend([act(target="room:r1")]))
        await until(records._writing.locked)
        second = asyncio.create_task(chain.intend([act(target="room:r2")]))
        await until(lambda: chain._count)
        first.cancel()
        second.cancel()
        await asyncio.wait((first, second))
    await until(lambda: intended(chain), 30)
    found = await told(records)
    assert ("room:r2", "intended") not in found
    if ("room:r1", "intended") in found:
        await until(lambda: stands(records, "room:r1", NOT_BEGUN), 30)


async def intended(chain: Audit) -> bool:
    """Whether the database takes entries again."""
    with contextlib.suppress(RecordsUnavailable):
        await chain.intend([act(target="room:later")])
        return True
    return False


async def stands(records: Records, *entry: str) -> bool:
    return entry in await told(records)


async def test_an_intent_that_is_on_disk_when_its_caller_leaves_was_not_begun(
    database_url: str, records: Records, chain: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    transact = records.transact

    async def slowly(work: Any) -> Any:
        done = await transact(work)
        begun.set()
        await go_on.wait()
        return done

    monkeypatch.setattr(records, "transact", slowly)
    caller = asyncio.create_task(chain.intend([act()]))
    await begun.wait()
    caller.cancel()
    await asyncio.wait((caller,))
    go_on.set()
    await becomes(records, ("room:r0", "intended"), ("room:r0", NOT_BEGUN))


async def test_nobody_waits_for_a_chain_that_is_written_no_more(database_url: str, records: Records) -> None:
    chain = Audit(records, "office")
    task = asyncio.create_task(chain.run())
    [intent] = await chain.intend([act()])
    task.cancel()
    await asyncio.wait((task,))
    async with asyncio.timeout(10):
        with pytest.raises(RecordsUnavailable, match="stops"):
            await chain.intend([act()])
    chain.conclude(intent, "done")
    assert chain._count == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_database_without_a_free_connection_is_unavailable(records: Records) -> None:
    async with contextlib.AsyncExitStack() as taken:
        for _ in range(20):
            await taken.enter_async_context(records.reading())
        with pytest.raises(RecordsUnavailable):
            await records.transact(lambda connection: None)
        with pytest.raises(RecordsUnavailable):
            async with records.writing():
                pass
    await records.transact(lambda connection: None)


async def test_a_back_office_without_its_chain_is_not_ready(api: Api) -> None:
    assert (await api.get("//readyz")).json["checks"]["audit"] == "ok"
    [task] = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") == "Audit.run"]
    task.cancel()
    await asyncio.wait((task,))
    ready = await api.get("//readyz")
    assert (ready.status, ready.json["checks"]["audit"]) == (503, "has stopped")
    async with asyncio.timeout(10):
        assert (await api.post("/commands", ROOM)).status == 503


@asynccontextmanager
async def stopped() -> AsyncIterator[None]:
    """PostgreSQL, and whatever of it serves a connection."""
    found: dict[int, psutil.Process] = {}
    for _ in range(2):  # it may have begun to serve another connection while it was being stopped
        for pid in processes() - found.keys():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.name() in ("postgres", "runuser"):
                    found[pid] = process
                if process.name() == "postgres":
                    process.suspend()
    # The one that changed the user stops itself when its child does, and is to go on after that.
    await until(lambda: all(map(_stands_still, found.values())), 30)
    try:
        yield
    finally:
        for process in found.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def _stands_still(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_while_the_database_is_stopped_calls_are_answered(
    bridge_settings: BridgeSettings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backoffice.records.BUSY_S", 300.0)  # what ends a call here is not that
    async with backoffice(bridge_settings, database_url=database_url, prompt=True) as api:

        async def works() -> bool:
            return (await api.post("/commands", ROOM)).status == 202 and (await api.get("//readyz")).status == 200

        await until(works, 30)
        async with stopped(), asyncio.timeout(30):
            session = {"Cookie": f"{PLAIN_COOKIE}=unknown"}
            issued, ready, who = await asyncio.gather(
                api.post("/commands", ROOM), api.get("//readyz"), api.as_(None).get("/nodes", headers=session)
            )
            assert (issued.status, issued.json["code"]) == (503, "unavailable")
            assert (ready.status, ready.json["checks"]["database"]) == (503, "does not answer")
            assert who.status == 503
        await until(works, 30)


async def test_an_address_with_a_scope_is_nobodys(bridge_settings: BridgeSettings) -> None:
    async with backoffice(bridge_settings, trusted_proxies="127.0.0.1") as api:
        await api.as_(None).post("/nodes/node-a/drain", headers={"X-Forwarded-For": "fe80::1%any text"})
        [entry] = await audited(api, 1)
        assert entry["address"] == "127.0.0.1"


async def test_of_a_batch_whose_caller_leaves_the_accepted_ones_are_told(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, slow = commands.publish, asyncio.Event()

    async def held_up(bridge: Any, caller: Any, command: Any, *rest: Any) -> Any:
        if command.subject == "room:slow":
            await slow.wait()
        return await publish(bridge, caller, command, *rest)

    monkeypatch.setattr(commands, "publish", held_up)
    batch = [{**ROOM, "subject": f"room:{name}"} for name in ("fast", "slow")]
    caller = asyncio.create_task(api.post("/commands/batch", {"commands": batch}))

    async def accepted() -> Any:
        return (await api.get("/commands?subject=room:fast")).json["items"]

    [fast] = await until(accepted)
    caller.cancel()
    await asyncio.wait((caller,))
    entries = await audited(api, 4)
    assert [(entry["target"], entry["result"].split(":")[0]) for entry in entries[2:]] == [
        ("room:fast", f"accepted {fast['id']}"),
        ("room:slow", "unknown"),
    ]


@both_databases
async def test_no_command_goes_out_before_its_intent_is_on_disk(
    server: Server, bridge_settings: BridgeSettings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backoffice.audit.ANSWER_S", 60.0)  # longer than a busy machine takes
    monkeypatch.setattr("backoffice.records.BUSY_S", 60.0)
    publish, commit = commands.publish, Audit._commit
    on_disk: list[list[tuple[str, str]]] = []  # each time that a command goes out
    begun = asyncio.Event()

    async def watched(*given: Any) -> Any:
        on_disk.append(await told(records))
        return await publish(*given)

    async def noted(chain: Audit, lines: Any) -> None:
        begun.set()
        await commit(chain, lines)

    async def waiting() -> int:
        keys = Keys()
        return sum([await raw.xlen(keys.commands(shard)) for shard in range(bridge_settings.shards)])

    monkeypatch.setattr(commands, "publish", watched)
    monkeypatch.setattr(Audit, "_commit", noted)
    raw = server.client()
    async with Records.open(database_url) as records, backoffice(bridge_settings, database_url=database_url) as api:
        async with locked(database_url):
            caller = asyncio.create_task(api.post("/commands", ROOM))
            await begun.wait()
            await api.get("/dead")  # asks every shard, behind whatever was sent before
            assert (on_disk, await waiting(), caller.done()) == ([], 0, False)
        assert (await caller).status == 202
        assert (on_disk, await waiting()) == ([[("room:lobby", "intended")]], 1)


@pytest.mark.parametrize(("path", "more"), [("/commands", ROOM), ("/dead/discard", {"ids": ["1-1-1"]})])
async def test_a_reason_has_no_control_characters(api: Api, path: str, more: dict[str, Any]) -> None:
    answer = await api.post(path, {**more, "reason": "a\0b"})
    assert (answer.status, answer.json["errors"][0]["path"]) == (422, "/reason")
    assert (await api.post(path, {**more, "reason": "one\n\ttwo"})).status in (200, 202)
