"""The journal's files: through kill -9, full disks, several processes, and processes that never come back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import signal
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.errors import Misconfigured, NotRecorded
from bridge.guard import guarded, needs_pipe
from bridge.journal import Journal, Row
from tests.conformance.fleet import Fleet, do
from tests.conformance.test_journal import Past, replay_of
from tests.waiting import until

REPOSITORY = Path(__file__).parents[2]
INSTALLATION = "i"


def row(number: int, shard: int = 0, incarnation: str = "first", at: float = 0.0) -> Row:
    return Row(shard, incarnation, at, "append", f"{shard}-{number}-1", fields=b"1:v,")


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Journal]]]:
    """Open one more journal in the test's directory."""
    journals: list[Journal] = []

    async def open_() -> Journal:
        journals.append(await Journal.open(tmp_path, INSTALLATION))
        return journals[-1]

    yield open_
    for journal in journals:
        if journal.path.with_suffix(".lock").exists():
            await journal.close()


async def test_rows_come_back_in_the_order_of_acceptance(opened: Callable[[], Awaitable[Journal]]) -> None:
    journal = await opened()
    await asyncio.gather(*(journal.add(row(n)) for n in range(100)))
    await journal.add(row(3))  # the caller has repeated it
    assert journal.count == 100
    assert [each.id for each in await journal.rows(0, "second", None, 1000)] == [f"0-{n}-1" for n in range(100)]
    assert await journal.rows(0, "first", None, 1000) == []


async def test_nobody_waits_for_a_journal_that_is_closed(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path, INSTALLATION)
    await journal.close()
    for number in range(2):
        with pytest.raises(NotRecorded, match="closed"):
            await asyncio.wait_for(journal.add(row(number)), 10)


async def test_rows_that_come_while_others_are_forgotten_are_counted_and_kept(
    tmp_path: Path, opened: Callable[[], Awaitable[Journal]]
) -> None:
    journal = await Journal.open(tmp_path, INSTALLATION)
    await journal.add(row(1))
    [first] = await journal.rows(0, "second", None, 10)
    await asyncio.gather(journal.forget([first.number]), journal.add(row(2)))
    assert journal.count == 1
    await journal.close()
    again = await opened()
    assert (again.path, again.count) == (journal.path, 1)
    assert [each.id for each in await again.rows(0, "second", None, 10)] == ["0-2-1"]


async def test_adopted_rows_are_counted_beside_those_that_are_being_written(
    tmp_path: Path, opened: Callable[[], Awaitable[Journal]]
) -> None:
    journal, left = await opened(), await Journal.open(tmp_path, INSTALLATION)
    await asyncio.gather(*(left.add(row(n)) for n in range(100)))
    await left.close()
    await asyncio.gather(journal.adopt(), *(journal.add(row(n)) for n in range(50, 150)))
    assert journal.count == 150


async def test_every_process_has_a_file_of_its_own(opened: Callable[[], Awaitable[Journal]]) -> None:
    journals = [await opened() for _ in range(3)]
    assert len({journal.path for journal in journals}) == len({journal.publisher for journal in journals}) == 3
    await journals[1].add(row(1))
    assert await journals[0].adopt() == ([], [])  # its process lives
    assert journals[0].count == 0


async def test_a_file_that_cannot_be_read_is_left_alone_and_told_once(
    tmp_path: Path, opened: Callable[[], Awaitable[Journal]]
) -> None:
    journal = await opened()
    later, left = [await Journal.open(tmp_path, INSTALLATION) for _ in range(2)]
    damaged = tmp_path / f"{INSTALLATION}-3.sqlite"
    damaged.write_bytes(b"no database at all, " * 100)
    for each in (later, left):
        await each.add(row(1))
    await asyncio.gather(later.close(), left.close())
    with contextlib.closing(sqlite3.connect(later.path)) as written:
        written.execute("PRAGMA user_version = 1000")
    adopted = await journal.adopt()
    assert adopted.publishers == [left.publisher]
    assert [path for path, _ in adopted.faults] == [later.path, damaged]
    assert journal.count == 1
    assert await journal.adopt() == ([], [])
    assert later.path.exists()
    assert damaged.exists()
    later.path.unlink()


async def test_a_file_of_an_older_version_is_read(tmp_path: Path, opened: Callable[[], Awaitable[Journal]]) -> None:
    journal, left = await opened(), await Journal.open(tmp_path, INSTALLATION)
    await left.add(row(1, at=7.0))
    await left.close()
    with contextlib.closing(sqlite3.connect(left.path)) as written:
        written.executescript(
            "DROP INDEX in_order; DROP INDEX withdrawn; ALTER TABLE accepted DROP COLUMN place;"
            "CREATE INDEX by_shard ON accepted (shard, number); PRAGMA user_version = 0;"
        )
    assert await journal.adopt() == ([left.publisher], [])
    assert [(each.id, each.place) for each in await journal.rows(0, "second", None, 10)] == [("0-1-1", 7.0)]


async def test_adopted_rows_go_between_ones_own_by_time(
    tmp_path: Path, opened: Callable[[], Awaitable[Journal]]
) -> None:
    journal, left = await opened(), await Journal.open(tmp_path, INSTALLATION)
    for n in (1, 3, 5):
        await journal.add(row(n, at=n))
    for n, at in ((2, 2.0), (4, 4.0), (6, 3.0)):  # the server's clock went back; the last came last all the same
        await left.add(row(n, at=at))
    await left.close()
    await journal.adopt()
    found: list[Row] = []
    while page := await journal.rows(0, "second", found[-1] if found else None, 2):
        found += page
    assert [int(each.id.split("-")[1]) for each in found] == [1, 2, 3, 4, 6, 5]


async def test_a_row_that_comes_late_has_its_own_place_whatever_other_shards_clocks_say(
    opened: Callable[[], Awaitable[Journal]],
) -> None:
    journal = await opened()
    await journal.add(row(9, shard=1, at=9.0))
    await journal.add(row(4)._replace(operation="cancel"), at=8.0)
    await journal.add(row(1, at=1.0))
    await journal.add(row(3, at=3.0))
    await journal.add(row(2, at=2.0)._replace(place=2.0))
    await journal.add(row(5, at=2.5))  # the server's clock went back
    found = await journal.rows(0, "second", None, 10)
    assert [int(each.id.split("-")[1]) for each in found if each.operation == "append"] == [1, 2, 3, 5]


async def test_what_was_withdrawn_is_found_without_reading_every_row(opened: Callable[[], Awaitable[Journal]]) -> None:
    journal = await opened()
    await asyncio.gather(*(journal.add(row(n)) for n in range(5000)))
    await journal.add(row(7)._replace(operation="cancel"))
    steps = []
    journal._db.set_progress_handler(lambda: steps.append(1), 100)
    [found] = await journal.withdrawn(0, "second")
    assert found.id == "0-7-1"
    assert len(steps) < 10


async def test_a_disk_that_does_not_answer_holds_nobody_up(
    opened: Callable[[], Awaitable[Journal]], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, held = await opened(), threading.Event()
    monkeypatch.setattr("bridge.journal.COMMIT_S", 0.02)
    journal._thread.submit(held.wait)
    try:
        for n in range(2):
            with pytest.raises(NotRecorded, match="the disk does not answer"):
                await journal.add(row(n))
    finally:
        held.set()
    monkeypatch.setattr("bridge.journal.COMMIT_S", 10.0)
    await journal.add(row(2))
    found = [each.id for each in await journal.rows(0, "second", None, 10)]
    assert found == [row(0).id, row(2).id]  # the first was on its way to the disk, the second is to be repeated
    assert journal.count == 2


async def test_a_damaged_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / f"{INSTALLATION}-0.sqlite").write_bytes(b"no database at all, " * 100)
    with pytest.raises(Misconfigured, match="move it away"):
        await Journal.open(tmp_path, INSTALLATION)


async def test_a_full_disk_is_told_and_the_same_key_helps_later(fleet: Fleet, tmp_path: Path) -> None:
    bridge = await fleet.bridge(journal=tmp_path)
    journal = replay_of(bridge).journal
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    wal = journal.path.with_name(journal.path.name + "-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size, hard))
    try:
        with pytest.raises(NotRecorded):
            await do(bridge, idempotency_key="k")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert journal.count == 0
    receipt = await do(bridge, idempotency_key="k")
    assert receipt.duplicate
    assert journal.count == 1
    await fleet.raw.delete("chat:{0}:commands")


@asynccontextmanager
async def publishing(url: str, directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *guarded([sys.executable, "-m", "tests.conformance.journaling", url, str(directory)]),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE if needs_pipe() else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def accepted(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout is not None
    return [(await process.stdout.readline()).decode().strip() for _ in range(count)]


async def rest(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    return [line.decode().strip() async for line in process.stdout if line.endswith(b"\n")]


async def test_whatever_a_killed_publisher_was_told_is_in_its_journal_and_comes_back(
    own_fleet: Fleet, tmp_path: Path, seed: int
) -> None:
    """Killed at any moment, while it commits as well; the next process takes its file over and puts everything back."""
    count = random.Random(seed).randrange(50, 400)
    async with publishing(own_fleet.server.url, tmp_path) as process:
        ids = await accepted(process, 1)
        past = Past(own_fleet.server)
        ids += await accepted(process, count)
        process.kill()
        ids += await rest(process)
    [left] = tmp_path.glob("*-0.sqlite")
    blocker = await Journal.open(tmp_path, left.name.rpartition("-")[0])  # as a third one would: the file is adopted
    assert blocker.path == left
    await blocker.close()
    await past.return_()
    bridge = await own_fleet.bridge(journal=tmp_path)

    async def known(id: str) -> bool:
        return await bridge.outcome(id) is not None

    assert all(await asyncio.gather(*map(known, ids)))
    stream = [
        entry[1].get(b"id", b"0-" + entry[0]).decode() for entry in await own_fleet.raw.xrange("chat:{0}:commands")
    ]
    assert len(set(stream)) == len(stream)
    assert set(ids) <= set(stream)
    await own_fleet.raw.delete("chat:{0}:commands", "chat:{0}:scheduled:moved")


async def test_a_living_process_takes_over_from_one_that_was_killed(own_fleet: Fleet, tmp_path: Path) -> None:
    bridge = await own_fleet.bridge(journal=tmp_path)
    async with publishing(own_fleet.server.url, tmp_path) as process:
        ids = await accepted(process, 50)
        process.kill()
        ids += await rest(process)
    replay = replay_of(bridge)
    replay.window_s = 0.0

    async def adopted() -> bool:
        await replay.step()
        return replay.journal.count >= len(ids)

    await until(adopted)
    assert list(tmp_path.glob("*.sqlite")) == [replay.journal.path]
    names = await own_fleet.raw.hkeys("chat:{0}:publishers")
    assert names.count(b":seen") == 1
    assert len(names) == 2
    await own_fleet.raw.delete("chat:{0}:commands")
