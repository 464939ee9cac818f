"""Operators, sessions and tokens: who gets in, and who does not any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from sqlalchemy import update
from structlog.testing import capture_logs
from yarl import URL

from backoffice import throttle
from backoffice.operators import Role
from backoffice.passwords import Passwords
from backoffice.people import People
from backoffice.records import Records
from backoffice.tables import operators
from backoffice.throttle import FORGOTTEN_AFTER_S, FREE_FAILURES, LONGEST_WAIT_S, MAX_KNOWN, Allowance, Throttle
from bridge.config import BridgeSettings
from bridge.errors import Conflict
from tests.backoffice.audited import audited
from tests.backoffice.conftest import both_databases
from tests.backoffice.service import PASSWORD, Api, backoffice
from tests.waiting import until

SAME = {"Sec-Fetch-Site": "same-origin"}
NEW = "a much better password"


class Browser:
    """Keeps its cookie, as browsers do; ``origin`` is what it says of where a request comes from."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        url = f"{self.url}/api/v1{path}"
        async with self.http.request(method, url, json=body, headers=headers or SAME) as response:
            return response.status, await response.json()

    async def log_in(self, name: str, password: str) -> int:
        return (await self.call("POST", "/session", {"name": name, "password": password}))[0]

    @property
    def cookie(self) -> Any:
        return next(iter(self.http.cookie_jar), None)


@pytest.fixture
async def browser(api: Api) -> AsyncIterator[Browser]:
    browser = Browser(api.url)
    yield browser
    await browser.http.close()


@pytest.fixture
async def other(api: Api) -> AsyncIterator[Browser]:
    browser = Browser(api.url)
    yield browser
    await browser.http.close()


async def test_the_first_admin_logs_in_and_acts(browser: Browser) -> None:
    assert await browser.log_in("admin", PASSWORD) == 200
    assert browser.cookie["httponly"]
    assert browser.cookie["samesite"] == "Lax"
    status, me = await browser.call("GET", "/session")
    assert (status, me["name"], me["role"], me["must_change_password"]) == (200, "admin", "admin", False)
    room = {"type": "room.open", "subject": "room:lobby", "payload": {}}
    assert (await browser.call("POST", "/commands", room))[0] == 202


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": ""},
        {"Sec-Fetch-Site": "cross-site", "Origin": "here"},
    ],
    ids=str,
)
async def test_another_site_cannot_act_with_the_cookie(browser: Browser, headers: dict[str, str]) -> None:
    await browser.log_in("admin", PASSWORD)
    headers = {name: browser.url if value == "here" else value for name, value in headers.items()}
    status, problem = await browser.call("DELETE", "/nodes/node-a/drain", None, **headers)
    assert (status, problem["code"]) == (403, "forbidden")
    assert (await browser.call("GET", "/nodes", None, **headers))[0] == 200


async def test_an_old_browser_is_known_by_its_origin(browser: Browser) -> None:
    await browser.log_in("admin", PASSWORD)
    assert (await browser.call("DELETE", "/session", None, Origin=browser.url))[0] == 200


async def test_a_program_with_a_cookie_jar_logs_in_acts_and_logs_out(browser: Browser) -> None:
    says_nothing = {"X-Nothing": "said"}
    entered = await browser.call("POST", "/session", {"name": "admin", "password": PASSWORD}, **says_nothing)
    assert entered[0] == 200
    room = {"type": "room.open", "subject": "room:lobby", "payload": {}}
    assert (await browser.call("POST", "/commands", room, **says_nothing))[0] == 202
    assert (await browser.call("DELETE", "/session", None, **says_nothing))[0] == 200


async def test_who_logs_in_is_told_when_the_session_ends(browser: Browser) -> None:
    _, entered = await browser.call("POST", "/session", {"name": "admin", "password": PASSWORD})
    ends = datetime.fromisoformat(entered["expires_at"])
    age = int(browser.cookie["max-age"])
    assert timedelta(0) <= timedelta(seconds=age) - (ends - datetime.now(UTC)) < timedelta(minutes=5)
    assert (await browser.call("GET", "/session"))[1] == entered


async def test_wrong_name_and_wrong_password_get_the_same_answer(browser: Browser) -> None:
    answers = [
        (await browser.call("POST", "/session", {"name": name, "password": "wrong"}))
        for name in ("admin", "nobody", "näme")
    ]
    for status, problem in answers:
        assert (status, problem["code"], problem["detail"]) == (401, "unauthorized", "name or password is wrong")
    assert browser.cookie is None


async def test_a_wrong_password_is_answered_with_what_programs_can_do(api: Api) -> None:
    answer = await api.as_(None).post("/session", {"name": "admin", "password": "wrong"})
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


async def test_guesses_are_throttled_by_name_and_by_address(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "FIRST_WAIT_S", 60.0)  # longer than a busy machine takes
    statuses = [await browser.log_in("admin", f"guess {n}") for n in range(FREE_FAILURES)]
    assert set(statuses) == {401}
    answers = await asyncio.gather(*(browser.call("POST", "/session", {"name": n, "password": PASSWORD})
                                     for n in ("admin", "nobody") * 50))  # fmt: skip
    assert {(status, problem["code"]) for status, problem in answers} == {(429, "rate_limited")}


@both_databases
async def test_an_operator_is_made_changes_the_password_and_is_disabled(
    database_url: str, api: Api, browser: Browser
) -> None:
    made = await api.post("/operators", {"name": "bo", "role": "moderator"})
    assert (made.status, made.json["must_change_password"]) == (201, True)
    assert await browser.log_in("bo", made.json["password"]) == 200
    status, problem = await browser.call("GET", "/nodes")
    assert (status, problem["code"]) == (403, "forbidden")
    assert "choose a new password" in problem["detail"]
    status, problem = await browser.call("POST", "/session/password", {"old": "wrong", "new": NEW})
    assert (status, problem["errors"][0]["path"]) == (422, "/old")
    assert (await browser.call("POST", "/session/password", {"old": made.json["password"], "new": NEW}))[0] == 200
    assert (await browser.call("GET", "/session"))[0] == 401
    assert await browser.log_in("bo", NEW) == 200
    assert (await browser.call("GET", "/nodes"))[0] == 200
    assert (await browser.call("GET", "/operators"))[0] == 403
    assert (await api.call("PATCH", "/operators/bo", {"disabled": True})).status == 200
    assert (await browser.call("GET", "/nodes"))[0] == 401
    assert await browser.log_in("bo", NEW) == 401


@both_databases
async def test_the_last_admin_stays(database_url: str, api: Api) -> None:
    for change in ({"role": "viewer"}, {"disabled": True}):
        answer = await api.call("PATCH", "/operators/admin", change)
        assert (answer.status, answer.json["code"]) == (409, "conflict")
    [admin] = (await api.get("/operators")).json["items"]
    assert (admin["role"], admin["disabled"]) == ("admin", False)


async def test_nobody_takes_their_own_session_away_by_a_new_password(api: Api, browser: Browser) -> None:
    await browser.log_in("admin", PASSWORD)
    for change in ({"new_password": True}, {"password": NEW}):
        status, problem = await browser.call("PATCH", "/operators/admin", change)
        assert (status, problem["code"]) == (409, "conflict")
        assert "/session/password" in problem["detail"]
    assert (await browser.call("GET", "/session"))[0] == 200
    entries = await audited(api, 2, action="operators.change")
    assert {entry["result"] for entry in entries} == {"refused conflict"}
    await browser.call("POST", "/operators", {"name": "bo", "role": "admin"})
    status, bo = await browser.call("PATCH", "/operators/bo", {"new_password": True})
    assert status == 200
    assert len(bo["password"]) >= 12
    assert (await api.call("PATCH", "/operators/admin", {"new_password": True})).status == 200  # a token has no session


@both_databases
async def test_names_are_taken_once_and_unknown_ones_are_told(database_url: str, api: Api) -> None:
    assert (await api.post("/operators", {"name": "admin", "role": "viewer"})).status == 409
    assert (await api.call("PATCH", "/operators/bo", {"role": "viewer"})).status == 404


@both_databases
async def test_an_operator_and_a_token_never_share_a_name(database_url: str, api: Api) -> None:
    assert (await api.post("/operators", {"name": "bo", "role": "viewer"})).status == 201
    assert (await api.post("/tokens", {"name": "deploy", "role": "viewer"})).status == 201
    for path, name, what in (
        ("/tokens", "bo", "operator"), ("/operators", "deploy", "token"), ("/operators", "viewer", "token")
    ):  # fmt: skip
        answer = await api.post(path, {"name": name, "role": "viewer"})
        assert (answer.status, answer.json["code"]) == (409, "conflict")
        assert (
            f"there is {'an' if what == 'operator' else 'a'} {what} '{name}' already; choose" in answer.json["detail"]
        )
    assert [token["name"] for token in (await api.get("/tokens")).json["items"]] == ["deploy"]
    assert {each["name"] for each in (await api.get("/operators")).json["items"]} == {"admin", "bo"}
    entries = await audited(api, 2, action="tokens.make", target="token:bo")
    assert entries[-1]["result"] == "failed conflict"


async def test_tokens_of_the_settings_with_an_operators_name_are_told_at_the_start(
    bridge_settings: BridgeSettings,
) -> None:
    with capture_logs() as logs:
        async with backoffice(bridge_settings) as api:
            assert (await api.get("/nodes")).status == 200
            async with Records.open(f"sqlite+aiosqlite:///{api.database}") as records:
                assert await People(records, Passwords(), ("ann", "bo")).shared_names() == []
    assert [entry["names"] for entry in logs if "share names" in entry["event"]] == [["admin"]]


@both_databases
async def test_two_who_are_the_last_admins_are_not_both_made_something_else(database_url: str) -> None:
    async with (
        Records.open(database_url) as first,
        Records.open(database_url) as second,
        Records.open(database_url) as held,
    ):
        people = People(first, Passwords()), People(second, Passwords())
        for name in ("ann", "bo"):
            await people[0].add(name, Role.ADMIN, PASSWORD)
        async with held.writing() as connection:  # so that both begin before either has ended
            await connection.execute(update(operators).values(must_change=False))
            changes = [asyncio.create_task(each.change(name, role=Role.VIEWER))
                       for each, name in zip(people, ("ann", "bo"), strict=True)]  # fmt: skip
            await asyncio.wait(changes, timeout=0.2)
        ends = await asyncio.gather(*changes, return_exceptions=True)
        assert sorted(type(end) for end in ends if isinstance(end, Exception)) == [Conflict]
        assert sorted(each.role for each in await people[0].all()) == [Role.VIEWER, Role.ADMIN]


@both_databases
async def test_a_name_is_no_tokens_and_can_be_told_from_nobody(database_url: str, api: Api) -> None:
    assert (await api.post("/tokens", {"name": "deploy", "role": "viewer"})).status == 201
    for name, status in (("deploy", 409), ("operator", 409), ("-", 422), ("..", 422), ("a.", 422), ("a.b", 201)):
        assert (await api.post("/operators", {"name": name, "role": "viewer"})).status == status, name
    for name in ("-", "..", "_a"):
        assert (await api.post("/tokens", {"name": name, "role": "viewer"})).status == 422


@both_databases
async def test_logging_out_everywhere_ends_the_other_sessions_at_once(
    database_url: str, browser: Browser, other: Browser
) -> None:
    await browser.log_in("admin", PASSWORD)
    await other.log_in("admin", PASSWORD)
    status, answer = await browser.call("DELETE", "/session?everywhere=1")
    assert (status, answer["sessions"]) == (200, 2)
    assert (await other.call("GET", "/nodes"))[0] == 401


async def test_an_open_stream_ends_with_its_session(browser: Browser, other: Browser) -> None:
    await browser.log_in("admin", PASSWORD)
    await other.log_in("admin", PASSWORD)
    async with other.http.get(f"{other.url}/api/v1/live?topics=nodes") as stream:
        assert stream.status == 200
        await browser.call("DELETE", "/session?everywhere=1")
        async with asyncio.timeout(10):
            while await stream.content.readany():
                pass


async def test_a_stolen_cookie_is_of_no_use_after_logging_out(browser: Browser, other: Browser) -> None:
    await browser.log_in("admin", PASSWORD)
    stolen = browser.cookie.value
    await browser.call("DELETE", "/session")
    other.http.cookie_jar.update_cookies({"session": stolen}, URL(other.url))
    assert (await other.call("GET", "/nodes"))[0] == 401


@both_databases
async def test_a_token_is_shown_once_works_and_is_dropped(database_url: str, api: Api, browser: Browser) -> None:
    made = await api.post("/tokens", {"name": "deploy", "role": "viewer"})
    assert made.status == 201
    bearer = {"Authorization": f"Bearer {made.json['token']}"}
    assert (await browser.call("GET", "/session", None, **bearer))[1]["name"] == "deploy"
    assert (await browser.call("POST", "/nodes/node-a/drain", None, **bearer))[0] == 403
    [listed] = (await api.get("/tokens")).json["items"]
    assert "token" not in listed
    assert (await api.delete(f"/tokens/{listed['id']}")).status == 200
    assert (await browser.call("GET", "/session", None, **bearer))[0] == 401
    assert (await api.delete(f"/tokens/{listed['id']}")).status == 404


async def test_a_token_expires(api: Api, browser: Browser) -> None:
    async def works() -> dict[str, str] | None:
        """One that was good for a moment; on a machine that stalls, that may go by before it is tried."""
        made = await api.post("/tokens", {"name": "deploy", "role": "viewer", "expires_in": 1})
        bearer = {"Authorization": f"Bearer {made.json['token']}"}
        return bearer if (await browser.call("GET", "/session", None, **bearer))[0] == 200 else None

    bearer = await until(works, 30)

    async def refused() -> bool:
        return (await browser.call("GET", "/session", None, **bearer))[0] == 401

    await until(refused)


async def test_no_secret_stands_in_the_audit_chain(api: Api, browser: Browser) -> None:
    made = await api.post("/operators", {"name": "bo", "role": "viewer", "password": "0123456789 secret"})
    token = await api.post("/tokens", {"name": "deploy", "role": "viewer"})
    await browser.log_in("bo", "0123456789 secret")
    await browser.call("POST", "/session/password", {"old": "0123456789 secret", "new": NEW})
    entries = str(await audited(api, 8))
    assert made.status == token.status - 0 == 201
    for secret in ("0123456789 secret", NEW, token.json["token"]):
        assert secret not in entries


def test_each_failure_doubles_the_wait_up_to_a_bound_and_is_forgotten() -> None:
    now = 0.0
    throttle = Throttle(lambda: now)
    for _ in range(FREE_FAILURES):
        assert throttle.wait_s("name ann") == 0
        throttle.failed("name ann")
    waits = []
    for _ in range(12):
        waits.append(throttle.wait_s("name ann"))
        now += waits[-1]
        throttle.failed("name ann")
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == LONGEST_WAIT_S
    assert throttle.wait_s("name bo") == 0
    now += FORGOTTEN_AFTER_S + 1
    assert throttle.wait_s("name ann") == 0


def test_a_throttle_knows_so_many_and_no_more() -> None:
    throttle = Throttle()
    for number in range(MAX_KNOWN + 10):
        throttle.failed(*[f"address {number}"] * 1)
    assert len(throttle) == MAX_KNOWN // 2


def test_an_allowance_fills_up_again() -> None:
    now = 0.0
    allowance = Allowance(per_s=2, at_once=3, clock=lambda: now)
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]
    now = 1.0
    assert [allowance.take() for _ in range(3)] == [True, True, False]


@both_databases
async def test_two_back_offices_on_one_database_know_the_same_people(
    api: Api, bridge_settings: BridgeSettings, database_url: str, browser: Browser
) -> None:
    async with backoffice(bridge_settings, database_url=database_url) as second:
        await second.post("/operators", {"name": "bo", "role": "viewer", "password": "0123456789"})
        token = (await second.post("/tokens", {"name": "deploy", "role": "viewer"})).json
        assert await browser.log_in("bo", "0123456789") == 200
        bearer = {"Authorization": f"Bearer {token['token']}"}

        async def status() -> int:
            return (await browser.call("GET", "/session", None, **bearer))[0]

        await until(lambda: _is(status, 200))
        await second.delete(f"/tokens/{token['id']}")
        await until(lambda: _is(status, 401))
        await api.issue("room.open", "room:lobby", {})
        await second.issue("room.open", "room:other", {})
        await audited(api, 4, action="commands.issue")


async def _is(status: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await status() == wanted
