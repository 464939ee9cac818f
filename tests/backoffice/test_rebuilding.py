"""A history whose database was lost, or that was away: it reads what the records hold, and says how far it is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backoffice import history
from backoffice.catching_up import CatchingUp
from backoffice.history import History, Wanted
from backoffice.records import Records
from bridge.client import Bridge
from bridge.config import BridgeSettings
from bridge.record import Outcome
from tests.backoffice.conftest import both_databases
from tests.backoffice.service import backoffice
from tests.servers import Server
from tests.waiting import until


def test_the_share_is_of_time_and_whole_when_every_end_was_reached() -> None:
    catching_up = CatchingUp([0, 1])
    assert catching_up.share == 0
    catching_up.begins(0, 1000, 2000)
    catching_up.reached(0, 1500)
    assert catching_up.share == 0.25
    catching_up.ended(1)
    assert catching_up.share == 0.75
    catching_up.reached(0, 2000)  # more came meanwhile
    assert catching_up.share == 0.99
    catching_up.ended(0)
    assert catching_up.share == 1
    catching_up.reached(0, 1000)  # a busy moment later on
    assert catching_up.share == 1


async def settle(bridge: Bridge, count: int, subject: str = "room:lobby") -> None:
    receipts = [await bridge.publish("room.open", subject, {}, by="test") for _ in range(count)]
    await asyncio.gather(*(bridge.outcome(receipt.id, wait=10) for receipt in receipts))


@both_databases
async def test_a_new_database_is_rebuilt_and_tells_how_far_it_is(
    bridge_settings: BridgeSettings, node: Bridge, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "FIRST_LOOK", 2)
    monkeypatch.setattr(history, "READ_AT_ONCE", 2)
    async with Bridge.connect(bridge_settings) as bridge, Records.open(database_url) as records:
        await settle(bridge, 12)
        shares: list[float] = []
        fed = History(records, bridge, ended=lambda _: shares.append(fed.progress.share))
        assert fed.progress.share == 0
        await fed.step()
        assert fed.progress.share == 1
        assert shares == sorted(shares)
        assert len(set(shares)) > 3
        assert await fed.count() == 12


async def test_a_lost_file_is_rebuilt_and_told_of_everywhere_meanwhile(
    bridge_settings: BridgeSettings, node: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record cannot be read for a while: what is not there yet is not said to be nowhere."""
    reading = asyncio.Event()
    read: Callable[..., Awaitable[list[int]]] = History._read_records

    async def held_up(self: History, *arguments: object) -> list[int]:
        await reading.wait()
        return await read(self, *arguments)

    async with Bridge.connect(bridge_settings) as bridge:
        await settle(bridge, 5)
    monkeypatch.setattr(History, "_read_records", held_up)
    async with backoffice(bridge_settings) as api:
        answer = (await api.get("/commands")).json
        assert (answer["items"], answer["complete"], answer["rebuilt"]) == ([], False, 0)
        assert (await api.get("//readyz")).json["checks"]["history"] == "being rebuilt: 0%"
        assert b"backoffice_history_rebuilt 0.0" in (await api.get("//metrics")).body
        reading.set()

        async def rebuilt() -> bool:
            answer = (await api.get("/commands")).json
            return bool(answer["complete"] and answer["rebuilt"] == 1 and len(answer["items"]) == 5)

        await until(rebuilt, what="the history is rebuilt")
        assert (await api.get("//readyz")).json["checks"]["history"] == "ok"
        assert b"backoffice_history_rebuilt 1.0" in (await api.get("//metrics")).body


async def test_a_record_that_was_capped_while_away_is_noticed_and_open_rows_are_asked_for(
    bridge_settings: BridgeSettings, node: Bridge, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those behind rows of which nobody knows any more."""
    monkeypatch.setattr(history, "STALE_MS", 0)
    monkeypatch.setattr(history, "_ASKED_AT_ONCE", 3)
    url = f"sqlite+aiosqlite:///{tmp_path}/away.sqlite3"
    async with Bridge.connect(bridge_settings) as bridge, Records.open(url) as records:
        await settle(bridge, 1)
        away = History(records, bridge)
        await away.step()
        receipts = [await bridge.publish("room.open", "room:lobby", {"title": str(n)}, by="test") for n in range(12)]
        outcomes = [await bridge.outcome(receipt.id, wait=10) for receipt in receipts]
        for outcome in outcomes:
            assert outcome is not None
            away.accepted(replace(outcome, state="accepted"))
        raw, keys, shard = server.client(), bridge.keys, bridge.shard_of("room:lobby")
        await raw.xtrim(keys.settled(shard), maxlen=2, approximate=False)
        for receipt in receipts[:7]:  # forgotten: as if more than an hour had gone by
            await raw.delete(keys.outcome(shard, receipt.id))
        await away.step()
        assert away.progress.lost == 1
        ended = {found.id for found in (await away.search(Wanted(state="done"), limit=100)).outcomes}
        assert ended >= {receipt.id for receipt in receipts[7:]}
        assert await away.count() == 13


def test_an_open_row_is_read_along_an_index_from_where_the_last_round_ended() -> None:
    assert re.search(r"WHERE .*state.* AND .*issued_at.* AND \(commands.issued_at, commands.id\) >",
                     str(history._open(5, (1, "1-1-1"))).replace("\n", " "))  # fmt: skip


async def test_nothing_is_twice_where_two_histories_feed_one_database(
    bridge_settings: BridgeSettings, node: Bridge, tmp_path: Path
) -> None:
    seen: list[Outcome] = []
    url = f"sqlite+aiosqlite:///{tmp_path}/shared.sqlite3"
    async with (
        Bridge.connect(bridge_settings) as bridge,
        Records.open(url) as mine,
        Records.open(url) as theirs,
    ):
        await settle(bridge, 20)
        one, other = History(mine, bridge, ended=seen.extend), History(theirs, bridge)
        await asyncio.gather(one.step(), other.step())
        assert (await one.count(), await other.count(), len(seen)) == (20, 20, 20)
