"""A session that somebody else has, too: once its operator or an admin acts, it is good for nothing anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from sqlalchemy import update

from backoffice.access import REFRESH_S
from backoffice.api.live import CHECK_S, STREAMS
from backoffice.operators import Role
from backoffice.passwords import Passwords
from backoffice.people import IDLE_S, People
from backoffice.records import Records, RecordsUnavailable
from backoffice.tables import sessions
from bridge.config import BridgeSettings
from tests.backoffice.conftest import both_databases
from tests.backoffice.service import PASSWORD, Api, backoffice
from tests.backoffice.stalled import flooded, stalled
from tests.waiting import until

SAME = {"Sec-Fetch-Site": "same-origin"}
NEW = "a much better password"
NAME = "ann"


@dataclass(frozen=True)
class Offices:
    """Two back offices on one database, where ann is an operator."""

    first: Api
    second: Api

    async def log_in(self) -> str:
        """A cookie."""
        answer = await self.first.as_(None).post("/session", {"name": NAME, "password": PASSWORD}, headers=SAME)
        assert answer.status == 200
        return f"session={SimpleCookie(answer.headers['Set-Cookie'])['session'].value}"

    async def call(self, cookie: str, method: str, path: str, body: Any = None) -> int:
        return (await self.first.as_(None).call(method, path, body, headers={**SAME, "Cookie": cookie})).status


@pytest.fixture
async def offices(bridge_settings: BridgeSettings, database_url: str) -> AsyncIterator[Offices]:
    async with Records.open(database_url) as records:
        people = People(records, Passwords())
        await people.first_admin(PASSWORD)
        await people.add(NAME, Role.OPERATOR, PASSWORD, must_change=False)
    async with (
        backoffice(bridge_settings, database_url=database_url, name="first") as first,
        backoffice(bridge_settings, database_url=database_url, name="second") as second,
    ):
        yield Offices(first, second)


async def log_out_everywhere(offices: Offices, owner: str) -> int:
    return await offices.call(owner, "DELETE", "/session?everywhere=1")


async def choose_a_password(offices: Offices, owner: str) -> int:
    return await offices.call(owner, "POST", "/session/password", {"old": PASSWORD, "new": NEW})


def changed(**change: object) -> Callable[[Offices, str], Awaitable[int]]:
    async def act(offices: Offices, _owner: str) -> int:
        return (await offices.first.call("PATCH", f"/operators/{NAME}", change)).status

    return act


DEEDS = {
    "log out everywhere": log_out_everywhere,
    "choose a password": choose_a_password,
    "another password": changed(password=NEW),
    "a lesser role": changed(role="viewer"),
    "a greater role": changed(role="admin"),
    "disabled": changed(disabled=True),
}


@both_databases
@pytest.mark.parametrize("deed", DEEDS)
async def test_a_stolen_session_ends_everywhere(database_url: str, offices: Offices, deed: str) -> None:
    stolen, owner = await offices.log_in(), await offices.log_in()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(headers={"Cookie": stolen}))
        streams = [
            await stack.enter_async_context(http.get(f"{office.url}/api/v1/live?topics=nodes"))
            for office in (offices.first, offices.second)
        ]
        assert [stream.status for stream in streams] == [200, 200]
        assert await DEEDS[deed](offices, owner) == 200
        for office in (offices.first, offices.second):  # at once, and not some time later
            thief = office.as_(None)
            assert (await thief.get("/nodes", headers={"Cookie": stolen})).status == 401
            assert (await thief.delete("/nodes/node-a/drain", headers={**SAME, "Cookie": stolen})).status == 401
            async with http.get(f"{office.url}/commands", allow_redirects=False) as page:
                assert (page.status, page.headers["Location"]) == (303, "/login?next=%2Fcommands")
            assert (await thief.get("/live?topics=nodes", headers={"Cookie": stolen})).status == 401
        async with asyncio.timeout(20):
            for stream in streams:
                while await stream.content.readany():
                    pass


def test_streams_are_looked_at_often_enough_to_end_within_a_second() -> None:
    assert CHECK_S + REFRESH_S < 1


@both_databases
async def test_a_stream_ends_with_its_token(database_url: str, offices: Offices) -> None:
    made = (await offices.first.post("/tokens", {"name": "deploy", "role": "viewer"})).json
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {made['token']}"}) as http,
        http.get(f"{offices.first.url}/api/v1/live?topics=nodes") as stream,
    ):
        assert stream.status == 200
        assert (await offices.second.delete(f"/tokens/{made['id']}")).status == 200
        async with asyncio.timeout(20):
            while await stream.content.readany():
                pass


async def test_who_does_not_read_is_cut_off_when_the_session_ends(
    apps: list[web.Application], offices: Offices
) -> None:
    stolen, owner = await offices.log_in(), await offices.log_in()
    with stalled(offices.first, f"Cookie: {stolen}"):
        await flooded(apps[0])
        assert await log_out_everywhere(offices, owner) == 200
        await until(lambda: not apps[0][STREAMS], what="no open stream")


@both_databases
async def test_a_stream_is_no_sign_of_life(database_url: str, offices: Offices) -> None:
    async with listened(offices, await offices.log_in()) as stream:
        async with Records.open(database_url) as records, records.writing() as connection:
            await connection.execute(update(sessions).values(seen_at=sessions.c.seen_at - IDLE_S * 1000))
        await heard_out(stream)


@pytest.mark.parametrize("error", [RecordsUnavailable("away"), RuntimeError("broken")], ids=repr)
async def test_a_stream_ends_where_nobody_can_tell_whether_its_session_holds(
    offices: Offices, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fails(_people: People, _session: object) -> bool:
        raise error

    monkeypatch.setattr("backoffice.api.live.UNKNOWN_S", 1.0)
    async with listened(offices, await offices.log_in()) as stream:
        monkeypatch.setattr(People, "holds", fails)
        await heard_out(stream)


@asynccontextmanager
async def listened(offices: Offices, cookie: str) -> AsyncIterator[aiohttp.ClientResponse]:
    async with (
        aiohttp.ClientSession(headers={"Cookie": cookie}) as http,
        http.get(f"{offices.first.url}/api/v1/live?topics=nodes") as stream,
    ):
        assert stream.status == 200
        yield stream


async def heard_out(stream: aiohttp.ClientResponse) -> None:
    async with asyncio.timeout(20):
        while await stream.content.readany():
            pass


class Held(Passwords):
    """Checks a password, and says so later."""

    def __init__(self) -> None:
        super().__init__()
        self.checked, self.go_on = asyncio.Event(), asyncio.Event()

    async def fits(self, password: str, hashed: str | None) -> bool:
        found = await super().fits(password, hashed)
        self.checked.set()
        await self.go_on.wait()
        return found


@both_databases
@pytest.mark.parametrize("change", [{"disabled": True}, {"password": NEW}], ids=str)
async def test_who_is_changed_while_logging_in_does_not_get_in(database_url: str, change: dict[str, Any]) -> None:
    async with Records.open(database_url) as records:
        people, held = People(records, Passwords()), (Held(), Held())
        for name in ("boss", NAME):
            await people.add(name, Role.ADMIN, PASSWORD, must_change=False)
        entering = asyncio.create_task(People(records, held[0]).log_in(NAME, PASSWORD, address="", agent=""))
        choosing = asyncio.create_task(People(records, held[1]).choose_password(NAME, PASSWORD, "yet another one"))
        for each in held:
            await each.checked.wait()
        await people.change(NAME, **change)
        for each in held:
            each.go_on.set()
        assert (await entering, await choosing) == (None, False)
        assert [operator.sessions for operator in await people.all()] == [0, 0]
