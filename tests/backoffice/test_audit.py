"""The audit chain: what stands in it, when, and that nobody can change it unseen."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only

from backoffice import audit_rows
from backoffice.app import make_app, routes
from backoffice.audit import MAX_WAITING, Audit
from backoffice.audit_rows import Act, Line
from backoffice.config import BackofficeSettings
from backoffice.problems import from_error, unreachable
from backoffice.records import Records, RecordsUnavailable
from backoffice.routes import PREFIX, failure
from backoffice.tables import audit, audit_heads
from bridge.chain import Entry, Verifier, digest
from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.errors import (
    Conflict,
    NotRecorded,
    NotReplicated,
    NotTaken,
    Overloaded,
    Replaying,
    ServerFull,
    Unreachable,
)
from tests.backoffice.audited import audited, entries_of
from tests.backoffice.conftest import both_databases
from tests.backoffice.service import PASSWORD, PATIENCE_S, Answer, Api
from tests.servers import Server
from tests.waiting import until

ENTRIES = 10_000


class Undone(Exception):
    """Ends a transaction without a trace."""


@pytest.fixture
async def records(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Records]:
    monkeypatch.setattr("backoffice.audit.ANSWER_S", PATIENCE_S)
    async with Records.open(database_url) as records:
        yield records


@pytest.fixture
async def chain(records: Records) -> AsyncIterator[Audit]:
    async for each in running(Audit(records, "office")):
        yield each


async def running(chain: Audit) -> AsyncIterator[Audit]:
    task = asyncio.create_task(chain.run())
    yield chain
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def act(number: int = 0) -> Act:
    return Act("ann", "rooms.freeze", f"room:r{number}", "127.0.0.1", f"request-{number}", "spam", {"n": number})


async def verify(connection: AsyncConnection) -> Verifier:
    verifier = Verifier()
    async for entry in entries_of(connection):
        verifier.look(entry)
    heads = await connection.execute(select(audit_heads.c.chain, audit_heads.c.seq, audit_heads.c.hash))
    verifier.end((row.chain, row.seq, row.hash) for row in heads)
    return verifier


async def verified(records: Records) -> Verifier:
    async with records.reading() as connection:
        return await verify(connection)


async def test_a_command_has_its_intent_before_and_its_result_after(api: Api) -> None:
    answer = await api.as_("moderator").issue("member.mute", "room:lobby", {"user": "u7"}, reason="spam", key="k-1")
    intent, result = await audited(api, 2, action="commands.issue")
    for entry in (intent, result):
        assert (entry["by"], entry["target"], entry["reason"]) == ("moderator", "room:lobby", "spam")
        assert entry["address"] == "127.0.0.1"
        assert entry["request_id"] == answer.headers["X-Request-Id"]
    assert intent["detail"]["payload"]["user"] == "u7"
    assert intent["detail"]["idempotency_key"] == "k-1"
    assert (intent["result"], intent["of"]) == ("intended", None)
    assert (result["result"], result["of"]) == (f"accepted {answer.json['id']}", intent["seq"])


async def test_each_command_of_a_batch_has_its_entries(api: Api) -> None:
    commands = [{"type": "room.open", "subject": f"room:r{n}", "payload": {}} for n in range(3)] + [{"type": 7}]
    await api.post("/commands/batch", {"commands": commands})
    entries = await audited(api, 8, action="commands.issue")
    assert [entry["target"] for entry in entries] == ["room:r0", "room:r1", "room:r2", "-"] * 2
    assert [entry["result"].split()[0] for entry in entries[4:]] == ["accepted"] * 3 + ["failed"]


async def test_what_is_refused_has_an_entry_with_who_wanted_it(api: Api) -> None:
    await api.as_("viewer").post("/nodes/node-a/drain")
    await api.as_("moderator").issue("room.freeze", "room:lobby", {})
    await api.as_("operator").post("/broadcasts", {"type": 7})
    await api.as_(None).post("/nodes/node-a/drain")
    entries = await audited(api, 5)
    assert [(e["by"], e["action"], e["target"], e["result"]) for e in entries] == [
        ("viewer", "nodes.drain", "/nodes/node-a/drain", "refused forbidden"),
        ("moderator", "commands.issue", "room:lobby", "intended"),
        ("moderator", "commands.issue", "room:lobby", "failed forbidden"),
        ("operator", "broadcasts.send", "/broadcasts", "refused invalid"),
        ("-", "nodes.drain", "/nodes/node-a/drain", "refused unauthorized"),
    ]


async def test_what_fails_before_it_is_begun_has_an_entry(api: Api) -> None:
    for act in ("requeue", "discard"):
        answer = await api.post(f"/dead/{act}", {"filter": {}, "cursor": "x", "reason": "r"})
        assert (answer.status, answer.json["errors"][0]["path"]) == (422, "?cursor")
    assert [(e["action"], e["result"]) for e in await audited(api, 2)] == [
        ("dead_letters.requeue", "refused invalid"),
        ("dead_letters.discard", "refused invalid"),
    ]


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (NotTaken("not connected"), "failed unavailable"),
        (Replaying(3, 1.0), "failed unavailable"),
        (ServerFull("full"), "failed unavailable"),
        (Overloaded(10, 9, 1.0), "failed overloaded"),
        (Conflict("begun"), "failed conflict"),
        (Unreachable("timed out"), "unknown: Redis did not answer"),
        (NotReplicated(0, 1), "unknown: not_replicated"),
        (NotRecorded("the journal is closed"), "unknown: not_recorded"),
        (from_error(Unreachable("timed out"), idempotency_key="k"), "unknown: Redis did not answer"),
        (unreachable(doubt=None), "failed unavailable"),
        (asyncio.CancelledError(), "unknown: the caller left, or time was up"),
        (KeyError("x"), "failed internal"),
    ],
)
def test_what_may_have_been_done_is_not_told_as_failed(error: BaseException, result: str) -> None:
    assert failure(error) == result


async def test_a_flood_of_strangers_does_not_fill_the_chain(api: Api) -> None:
    for _ in range(12):
        await asyncio.gather(*(api.as_(None).post("/nodes/node-a/drain") for _ in range(50)))
    answer = await api.get("/audit?by=-&limit=500")
    assert 100 <= len(answer.json["items"]) < 200


async def test_a_flood_of_refused_reads_does_not_fill_the_chain(api: Api) -> None:
    for _ in range(6):
        await asyncio.gather(*(api.as_("viewer").get("/operators") for _ in range(50)))
    answer = await api.get("/audit?by=viewer&limit=500")
    assert 100 <= len(answer.json["items"]) < 200


WRITES = [f"{route.method} {route.path}" for route in routes(BackofficeSettings()) if route.writes]


@pytest.mark.parametrize("route", WRITES)
async def test_every_route_that_writes_leaves_an_entry(api: Api, route: str) -> None:
    method, path = route.split()
    example = path.format(id="1-1-1", name="node-a", shard="0")
    bodies = {
        "/commands": {"type": "room.open", "subject": "room:r1", "payload": {}},
        "/commands/batch": {"commands": [{"type": "room.open", "subject": "room:r1", "payload": {}}]},
        "/broadcasts": {"type": "config.reload", "scope": "all", "payload": {}},
        "/dead/requeue": {"ids": ["1-1-1"], "reason": "x"},
        "/dead/discard": {"ids": ["1-1-1"], "reason": "x"},
        "/session": {"name": "nobody", "password": "x"},
        "/session/password": {"old": "x", "new": "0123456789"},
        "/operators": {"name": "bo", "role": "viewer"},
        "/operators/{name}": {"role": "viewer"},
        "/tokens": {"name": "bo", "role": "viewer"},
    }
    if method != "DELETE":
        await api.call(method, example, bodies.get(path))
    else:
        await api.call(method, example)
    answer = await api.get("/audit")
    assert answer.json["items"]


async def test_every_form_that_is_refused_leaves_an_entry(api: Api, bridge_settings: BridgeSettings) -> None:
    table = make_app(BackofficeSettings(), bridge_settings).router.routes()
    posts = {route.resource.canonical for route in table if route.method == "POST" and route.resource}
    actions = {"/login": "log_in", "/password": "choose_password", "/logout": "log_out"}
    # Looks and language are the browser's alone.
    assert {path for path in posts if not path.startswith(PREFIX)} == {*actions, "/preferences"}

    async def send(path: str, site: str, cookie: str = "", **fields: str) -> Answer:
        headers = {"Sec-Fetch-Site": site, "Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
        data = urlencode(fields).encode()
        return await api.as_(None).call("POST", f"/{path}", data=data, headers=headers, redirects=False)

    entered = await send("/login", "same-origin", name="admin", password=PASSWORD)
    cookie = entered.headers["Set-Cookie"].split(";")[0]
    assert [(await send(path, "cross-site", cookie)).status for path in actions] == [403] * 3
    assert (await send("/password", "same-origin", cookie, old=PASSWORD, new="one", again="another")).status == 422
    assert [(await send(path, "same-origin")).status for path in ("/password", "/logout")] == [303] * 2
    assert (await send("/login", "same-origin", name="x" * 99)).status == 422
    entries = await audited(api, 9)
    assert {(e["by"], e["action"], e["target"], e["result"]) for e in entries[2:]} == {
        *(("-", f"session.{action}", path, "refused forbidden") for path, action in actions.items()),
        ("admin", "session.choose_password", "/password", "refused invalid"),
        ("-", "session.choose_password", "/password", "refused unauthorized"),
        ("-", "session.log_out", "/logout", "refused unauthorized"),
        ("-", "session.log_in", "/login", "refused invalid"),
    }


async def test_without_its_database_nothing_is_done(api: Api, server: Server, node: Bridge) -> None:
    raw = server.client()

    async def closed(*_: object) -> None:
        raise RecordsUnavailable("gone")

    async def left() -> list[bytes]:
        found: list[bytes] = await raw.keys("*:idem:*") + await raw.keys("*:outcome:*")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Audit, "_commit", closed)
        answer = await api.issue("room.open", "room:lobby", {}, key="k-1")
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert "database" in answer.json["detail"]
    assert answer.headers["Retry-After"] == "1"
    assert answer.json["idempotency_key"] == "k-1"
    assert await left() == []
    assert (await api.issue("room.open", "room:lobby", {}, key="k-1", wait=10)).json["state"] == "done"
    assert len(await left()) == 2


async def test_filters_and_pages(api: Api) -> None:
    for number in range(5):
        await api.as_("operator").issue("room.open", f"room:r{number}", {})
    await audited(api, 10, action="commands")
    assert len((await api.get("/audit?by=operator&target=room:r3")).json["items"]) == 2
    assert (await api.get("/audit?by=ann")).json["items"] == []
    assert (await api.get("/audit?until=2020-01-01T00:00:00Z")).json["items"] == []
    found, cursor = [], ""
    while cursor is not None:
        page = (await api.get(f"/audit?action=commands.issue&limit=3{cursor and f'&cursor={cursor}'}")).json
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 10


@both_databases
async def test_a_chain_is_continued_after_a_restart_and_holds(records: Records) -> None:
    for _ in range(2):
        async for chain in running(Audit(records, "office")):
            for number in range(3):
                [intent] = await chain.intend([act(number)])
                chain.conclude(intent, "done")
    verifier = await verified(records)
    assert verifier.broken == []
    assert verifier.heads["office"][0] == 12


@both_databases
async def test_processes_may_write_one_chain_and_others_their_own(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backoffice.audit.ANSWER_S", 60.0)  # longer than a busy machine takes
    callers, entries = 4, 25

    async def call(chain: Audit) -> None:
        for number in range(entries):
            [intent] = await chain.intend([act(number)])
            chain.conclude(intent, "done")

    async with contextlib.AsyncExitStack() as offices:
        chains = []
        for name in ("one", "one", "one", "two"):
            records = await offices.enter_async_context(Records.open(database_url))
            chains.append(
                await offices.enter_async_context(contextlib.asynccontextmanager(running)(Audit(records, name)))
            )
        await asyncio.gather(*(call(chain) for chain in chains for _ in range(callers)))
    async with Records.open(database_url) as records:
        verifier = await verified(records)
    assert verifier.broken == []
    each = 2 * callers * entries
    assert {name: seq for name, (seq, _) in verifier.heads.items()} == {"one": 3 * each, "two": each}


class Overtaking:
    """Another process, which writes to the chain whenever ``Audit`` has just read where it ends."""

    def __init__(self, other: Audit, times: int) -> None:
        self.left = times
        self._other, self._read, self._loop = other, audit_rows._read_head, asyncio.get_running_loop()

    def read_head(self, connection: Connection, chain: str) -> tuple[int, str]:
        head = self._read(connection, chain)
        if self.left:
            self.left -= 1
            writing = self._other.intend([act()])
            if connection.dialect.name == "sqlite":  # in a thread
                asyncio.run_coroutine_threadsafe(writing, self._loop).result()
            else:
                await_only(writing)
        return head


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Audit]:
    """The same chain, as another process has it."""
    async with Records.open(database_url) as records:
        async for each in running(Audit(records, "office")):
            await each.intend([act()])
            yield each


@both_databases
async def test_a_process_that_is_overtaken_again_and_again_has_its_turn(
    records: Records, chain: Audit, other: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backoffice.audit.ANSWER_S", 60.0)
    overtaking = Overtaking(other, 12)
    monkeypatch.setattr(audit_rows, "_read_head", overtaking.read_head)
    [line] = await chain.intend([act(7)])
    assert (overtaking.left, line.seq) == (0, 1 + 12 + 1)
    verifier = await verified(records)
    assert (verifier.broken, verifier.heads["office"][0]) == ([], 14)


@both_databases
async def test_a_process_that_is_always_overtaken_gives_up_in_the_end(
    records: Records, other: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    overtaking = Overtaking(other, 1_000_000)
    monkeypatch.setattr(audit_rows, "_read_head", overtaking.read_head)
    chain, lines = Audit(records, "office"), [Line(act(7), "{}", "intended", None, 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backoffice.audit.ANSWER_S", 0.1)
        with pytest.raises(RecordsUnavailable):
            await chain._commit(lines)
    overtaking.left = 1_000_000
    trying = asyncio.create_task(chain._commit(lines))
    await until(lambda: overtaking.left < 1_000_000 - 3)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    monkeypatch.undo()
    await chain._commit(lines)

    async def holds() -> bool:  # at last: the other one writes yet what came of an intent whose caller left
        return not (await verified(records)).broken

    await until(holds)


async def test_what_waits_for_the_database_is_bounded(records: Records) -> None:
    chain = Audit(records, "office")  # nobody writes
    waiting = asyncio.create_task(chain.intend([act()] * MAX_WAITING))
    await until(lambda: chain._count == MAX_WAITING)
    with pytest.raises(RecordsUnavailable, match="too much"):
        await chain.intend([act()])
    waiting.cancel()


@pytest.fixture
async def long_chain(records: Records, chain: Audit) -> Records:
    await chain.intend([act(number) for number in range(ENTRIES)])
    return records


@pytest.fixture
def places(seed: int) -> list[int]:
    """Entries of the long chain: both ends, next to them, and one anywhere."""
    return [1, 2, random.Random(seed).randrange(3, ENTRIES - 1), ENTRIES - 1, ENTRIES]


@contextlib.asynccontextmanager
async def tampered(records: Records) -> AsyncIterator[AsyncConnection]:
    """A change of the table that nobody will have made."""
    with contextlib.suppress(Undone):
        async with records.writing() as connection:
            yield connection
            raise Undone


async def broken(connection: AsyncConnection) -> list[tuple[int, str]]:
    return [(each.seq, each.what) for each in (await verify(connection)).broken]


@pytest.mark.parametrize(
    ("column", "value"),
    [("by", "bo"), ("action", "rooms.open"), ("target", "room:r"), ("reason", None), ("address", "10.0.0.1"),
     ("request_id", "-"), ("result", "done"), ("of", 1), ("detail", "{}"), ("at", 1), ("chain", "other")],
)  # fmt: skip
async def test_whatever_of_an_entry_is_changed_it_is_named(
    records: Records, chain: Audit, column: str, value: object
) -> None:
    await chain.intend([act(number) for number in range(9)])
    async with tampered(records) as connection:
        await connection.execute(update(audit).where(audit.c.seq == 5).values({column: value}))
        assert (5, "was changed" if column != "chain" else "entry 5 is missing") in await broken(connection)


async def test_a_changed_entry_of_many_is_named(long_chain: Records, places: list[int]) -> None:
    for place in places:
        async with tampered(long_chain) as connection:
            await connection.execute(update(audit).where(audit.c.seq == place).values(reason="ham"))
            assert await broken(connection) == [(place, "was changed")]
    async with long_chain.reading() as connection:
        assert await broken(connection) == []


async def test_a_changed_entry_with_a_hash_that_fits_is_named(long_chain: Records, places: list[int]) -> None:
    for place in places:
        async with tampered(long_chain) as connection:
            await forge(connection, place)
            assert await broken(connection) == [
                (
                    place,
                    f"is not what {'was written last' if place == ENTRIES else f'entry {place + 1} was written after'}",
                )
            ]


async def forge(connection: AsyncConnection, place: int) -> None:
    columns = [audit.c[name] for name in Entry._fields]
    found = (await connection.execute(select(*columns).where(audit.c.seq == place))).one()
    changed = Entry(*found)._replace(reason="ham")
    values = {"reason": "ham", "hash": digest(changed)}
    await connection.execute(update(audit).where(audit.c.seq == place).values(values))


async def test_a_removed_entry_of_many_is_named(long_chain: Records, places: list[int]) -> None:
    for place in places:
        async with tampered(long_chain) as connection:
            await connection.execute(delete(audit).where(audit.c.seq == place))
            end = f"the chain ends at {place - 1}, and was written up to {place}"
            assert await broken(connection) == [(place, end if place == ENTRIES else f"entry {place} is missing")]


async def test_entries_removed_from_the_end_are_named(long_chain: Records) -> None:
    async with tampered(long_chain) as connection:
        await connection.execute(delete(audit).where(audit.c.seq > ENTRIES - 7))
        assert await broken(connection) == [
            (ENTRIES - 6, f"the chain ends at {ENTRIES - 7}, and was written up to {ENTRIES}")
        ]


async def test_two_entries_of_many_that_change_places_are_named(long_chain: Records, places: list[int]) -> None:
    for one, other in itertools.pairwise([*places, 1]):
        async with tampered(long_chain) as connection:
            for old, new in ((one, 0), (other, one), (0, other)):
                await connection.execute(update(audit).where(audit.c.seq == old).values(seq=new))
            assert {one, other} <= {seq for seq, _ in await broken(connection)}


async def test_an_entry_of_many_that_is_moved_is_named(long_chain: Records, places: list[int]) -> None:
    """The others make room for it, so that no number is missing."""
    for old, new in itertools.pairwise([*places, 1]):
        async with tampered(long_chain) as connection:
            low, high, by = (new, old - 1, 1) if new < old else (old + 1, new, -1)
            await connection.execute(update(audit).where(audit.c.seq == old).values(seq=0))
            others = audit.c.seq.between(low, high)
            await connection.execute(update(audit).where(others).values(seq=-audit.c.seq - by))
            await connection.execute(update(audit).where(audit.c.seq < 0).values(seq=-audit.c.seq))
            await connection.execute(update(audit).where(audit.c.seq == 0).values(seq=new))
            assert new in {seq for seq, _ in await broken(connection)}


@both_databases
async def test_the_chain_is_written_many_entries_a_transaction(records: Records, chain: Audit) -> None:
    commits = 0
    async with records.reading() as connection:
        assert (await connection.execute(select(func.count()).select_from(audit))).scalar_one() == 0
    transact = records.transact

    async def counted(work: Any) -> object:
        nonlocal commits
        commits += 1
        return await transact(work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "transact", counted)
        await asyncio.gather(*(chain.intend([act(number)]) for number in range(500)))
    assert commits <= 3
