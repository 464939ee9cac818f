"""Logging in at an OpenID provider: who gets in as what, and which answers of the provider are not believed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import SecretStr
from yarl import URL

from backoffice import oidc, throttle
from backoffice.groups import Groups
from backoffice.operators import Role
from backoffice.throttle import FREE_FAILURES
from backoffice.ui.single_sign_on import BACK
from bridge.config import BridgeSettings
from bridge.errors import Misconfigured
from tests.backoffice.audited import audited
from tests.backoffice.conftest import both_databases
from tests.backoffice.login_provider import (
    CLIENT,
    SECRET,
    LoginProvider,
    by_another_key,
    by_the_clients_secret,
    key,
    unsigned,
    without_key_id,
)  # fmt: skip
from tests.backoffice.service import PASSWORD, Api, backoffice

ROLES = "groups:chat-mods=moderator,chat-admins=admin"
PROXIED = {"Host": "office.example", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}


class Browser:
    """Goes where it is sent, step by step."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self.http = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True), headers=headers)

    async def get(self, url: str) -> tuple[int, str]:
        """Status, and the text or where it leads."""
        async with self.http.get(URL(url, encoded=True), allow_redirects=False) as response:
            return response.status, response.headers.get("Location") or await response.text()

    async def leave(self, next: str = "/") -> str:
        """Where the back office sends it."""
        status, where = await self.get(f"{self.url}/login/provider?next={next}")
        assert status == 303, where
        return where

    async def way_back(self, next: str = "/") -> str:
        """Where the provider sends it."""
        status, where = await self.get(await self.leave(next))
        assert status == 303, where
        return where

    async def log_in(self, next: str = "/") -> tuple[int, str]:
        return await self.get(await self.way_back(next))

    async def me(self) -> tuple[int, dict[str, Any]]:
        async with self.http.get(f"{self.url}/api/v1/session") as response:
            return response.status, await response.json()

    def cookies(self) -> dict[str, str]:
        return {cookie.key: cookie.value for cookie in self.http.cookie_jar if cookie.value}


@pytest.fixture
async def provider() -> AsyncIterator[LoginProvider]:
    async with LoginProvider() as provider:
        yield provider


def settings(provider: LoginProvider, **options: Any) -> dict[str, Any]:
    return {"oidc_issuer": provider.url, "oidc_client_id": CLIENT, "oidc_client_secret": SecretStr(SECRET),
            "oidc_roles": ROLES, **options}  # fmt: skip


@pytest.fixture
async def office(
    bridge_settings: BridgeSettings, provider: LoginProvider, request: pytest.FixtureRequest
) -> AsyncIterator[Api]:
    url = request.getfixturevalue("database_url") if "database_url" in request.fixturenames else None
    async with backoffice(bridge_settings, database_url=url, **settings(provider)) as api:
        provider.redirects = {f"{api.url}{BACK}"}
        yield api


@pytest.fixture
async def browser(office: Api) -> AsyncIterator[Browser]:
    browser = Browser(office.url)
    yield browser
    await browser.http.close()


async def names(office: Api) -> set[str]:
    return {each["name"] for each in (await office.get("/operators")).json["items"]}


@both_databases
async def test_somebody_of_a_group_gets_in_and_is_an_operator_like_others(
    database_url: str, office: Api, browser: Browser
) -> None:
    assert await browser.log_in("/commands?q=by:ann") == (303, "/commands?q=by:ann")
    assert set(browser.cookies()) == {"session"}
    status, me = await browser.me()
    assert (status, me["name"], me["role"], me["must_change_password"]) == (200, "ann", "moderator", False)
    intent, _ = await audited(office, 2, action="session.log_in")
    assert (intent["target"], intent["detail"]["role"]) == ("operator:ann", "moderator")
    assert (await office.call("PATCH", "/operators/ann", {"disabled": True})).status == 200
    assert (await browser.me())[0] == 401
    status, page = await browser.log_in()
    assert (status, "ann is disabled here" in page) == (403, True)
    assert (await office.call("PATCH", "/operators/ann", {"disabled": False})).status == 200
    assert (await browser.log_in())[0] == 303
    assert (await browser.me())[0] == 200
    assert await names(office) == {"admin", "ann"}


def claims(**changed: object) -> Callable[[LoginProvider], None]:
    return lambda provider: provider.claims.update(changed)


def bent(how: Callable[[dict[str, Any]], str]) -> Callable[[LoginProvider], None]:
    return lambda provider: setattr(provider, "bend", how)


LONG_AGO = int(time.time()) - 3600
NOT_BELIEVED: dict[str, tuple[Callable[[LoginProvider], None], str]] = {
    "another nonce": (claims(nonce="another"), "of another login"),
    "no nonce": (claims(nonce=None), "nonce"),
    "nonces": (claims(nonce=["another"]), "of another login"),
    "another audience": (claims(aud="another"), "aud"),
    "no audience": (claims(aud=None), "aud"),
    "audiences": (claims(aud=[CLIENT, "another"]), "another client"),
    "made for another": (claims(aud=[CLIENT, "another"], azp="another"), "another client"),
    "another issuer": (claims(iss="https://evil.example"), "iss"),
    "expired": (claims(exp=LONG_AGO), "exp"),
    "no end": (claims(exp=None), "exp"),
    "of the future": (claims(iat=LONG_AGO + 7200 + 3600), "issued in the future"),
    "nobody": (claims(sub=None), "sub"),
    "unsigned": (bent(unsigned), "not believed"),
    "signed by another key": (bent(by_another_key), "not believed"),
    "signed by the client's secret": (bent(by_the_clients_secret), "not believed"),
    "no token": (bent(lambda _: "nonsense"), "not believed"),
    "no group": (claims(groups=None), "none of your groups may work here"),
    "other groups": (claims(groups=["staff", "chat-mods-not"]), "hold one of chat-mods, chat-admins"),
    "odd groups": (claims(groups={"chat-mods": True}), "none of your groups"),
}


@pytest.mark.parametrize("what", NOT_BELIEVED)
async def test_what_is_not_believed_opens_nothing(
    office: Api, provider: LoginProvider, browser: Browser, what: str
) -> None:
    bend, says = NOT_BELIEVED[what]
    bend(provider)
    status, page = await browser.log_in()
    assert (status, says in page) == (403, True), page
    assert browser.cookies() == {}
    assert await names(office) == {"admin"}
    [entry] = await audited(office, 1)
    assert (entry["by"], entry["action"], entry["result"]) == ("-", "session.log_in", "refused forbidden")


async def test_several_audiences_are_fine_where_it_was_made_for_us(provider: LoginProvider, browser: Browser) -> None:
    provider.claims.update(aud=["another", CLIENT], azp=CLIENT)
    assert (await browser.log_in())[0] == 303


async def test_an_answer_counts_once_and_in_the_browser_that_asked(office: Api, browser: Browser) -> None:
    back = await browser.way_back()
    other = Browser(office.url)
    assert (await other.get(back))[0] == 403  # it was caught by somebody, or is given to somebody
    own = URL(await other.way_back())
    stolen = own.update_query(code=URL(back).query["code"])
    assert (await other.get(str(stolen)))[0] == 403  # the code of another login, whose verifier they have not
    await other.http.close()
    assert (await browser.get(back))[0] == 403  # its code is used up
    back = await browser.way_back()
    assert (await browser.get(back))[0] == 303
    assert (await browser.get(back))[0] == 403  # the same again


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"state": "another"}, "not begun in this browser"),
        ({"state": ""}, "not begun in this browser"),
        ({"state": "ä"}, "not begun in this browser"),
        ({"iss": "https://evil.example"}, "another provider answers"),
        ({"error": "access_denied<script>"}, "access_denied&lt;script&gt;"),
        ({"code": ""}, "sent no code"),
        ({"code": "x" * 5000}, "sent no code"),
    ],
    ids=str,
)
async def test_another_answer_than_the_providers_is_refused(
    provider: LoginProvider, browser: Browser, changed: dict[str, str], says: str
) -> None:
    status, page = await browser.get(str(URL(await browser.way_back()).update_query(changed)))
    assert (status, says in page) == (403, True), page
    assert "token" not in provider.asked
    assert browser.cookies() == {}


@pytest.mark.parametrize("next", ["//evil.example", "/%5Cevil.example", "https://evil.example", "", "/%0d%0aX:1"])
async def test_nobody_is_sent_to_another_site(browser: Browser, next: str) -> None:
    assert await browser.log_in(next) == (303, "/")


@pytest.mark.parametrize("cookie", ["a.b.c.Ly9ldmlsLmV4YW1wbGU", "a.b.c.L1xldmls", "a.b.c.!", "a.b.c", "a.b.c._w"])
async def test_a_cookie_that_somebody_made_up_sends_nobody_to_another_site(browser: Browser, cookie: str) -> None:
    await browser.way_back()
    browser.http.cookie_jar.update_cookies({"login": cookie}, URL(browser.url))
    status, page = await browser.get(f"{browser.url}{BACK}?state=a&code=x")
    assert status == 403
    assert "evil" not in page


async def test_a_name_that_is_taken_stays_with_whom_it_belongs_to(
    office: Api, provider: LoginProvider, browser: Browser
) -> None:
    provider.claims.update(preferred_username="admin")
    await browser.log_in()
    assert (await browser.me())[1]["name"] == "ann@example.org"
    provider.claims.update(sub="another")
    await browser.log_in()
    assert (await browser.me())[1]["name"].startswith("admin.")
    provider.claims.update(sub="a third", preferred_username="a b", email=None)
    await browser.log_in()
    assert (await browser.me())[1]["name"].startswith("operator.")
    admin = (await office.get("/operators")).json["items"][0]
    assert (admin["name"], admin["role"], admin["sessions"]) == ("admin", "admin", 0)


@pytest.mark.parametrize("name", ["-", "..", "a.", "operator"])
async def test_a_name_that_would_pass_for_another_is_not_taken(
    provider: LoginProvider, browser: Browser, name: str
) -> None:
    provider.claims.update(preferred_username=name)
    await browser.log_in()
    assert (await browser.me())[1]["name"] == "ann@example.org"


async def test_an_admin_of_the_provider_does_not_replace_one_with_a_password(
    office: Api, provider: LoginProvider, browser: Browser
) -> None:
    provider.claims.update(groups="chat-admins")
    await browser.log_in()
    assert (await browser.me())[1]["role"] == "admin"
    for change in ({"role": "viewer"}, {"disabled": True}):
        assert (await office.call("PATCH", "/operators/admin", change)).status == 409
    assert (await office.call("PATCH", "/operators/ann", {"disabled": True})).status == 200


async def test_another_role_at_the_provider_ends_older_sessions(
    office: Api, provider: LoginProvider, browser: Browser
) -> None:
    other = Browser(office.url)
    for each in (browser, other):
        await each.log_in()
    assert (await browser.me())[0] == 200
    provider.claims.update(groups="chat-admins", preferred_username="called otherwise by now")
    await other.log_in()
    assert (await browser.me())[0] == 401
    assert (await other.me())[1].items() >= {("name", "ann"), ("role", "admin")}
    entries = await audited(office, 6, action="session.log_in")
    details = [entry["detail"] for entry in entries if entry["detail"]]
    assert {(each["role"], each["made"], each["role_before"]) for each in details} == {
        ("moderator", True, None), ("moderator", False, "moderator"), ("admin", False, "moderator")}  # fmt: skip
    assert {len(each["subject"]) for each in details} == {12}
    await other.http.close()


async def test_who_logs_in_there_has_no_password_here(office: Api, browser: Browser) -> None:
    await browser.log_in()
    for password in ("", PASSWORD):
        assert (await office.as_(None).post("/session", {"name": "ann", "password": password})).status == 401
    answer = await office.call("PATCH", "/operators/ann", {"new_password": True})
    assert (answer.status, "at the login provider" in answer.json["detail"]) == (409, True)
    assert (await browser.me())[0] == 200


async def test_keys_are_changed_and_asked_for_again_but_not_all_the_time(
    provider: LoginProvider, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await browser.log_in())[0] == 303
    provider.keys, provider.signs = [key("another")], "another"
    monkeypatch.setattr(oidc, "AGAIN_S", 1000.0)
    assert (await browser.log_in())[0] == 403
    assert provider.asked.count("keys") == 1
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    assert (await browser.log_in())[0] == 303
    assert (provider.asked.count("keys"), provider.asked.count("discovery")) == (2, 1)


@pytest.mark.parametrize("keys", [[], [key("one")]], ids=["none", "for other things"])
async def test_a_provider_without_keys_is_told(
    provider: LoginProvider, browser: Browser, monkeypatch: pytest.MonkeyPatch, keys: list[RSAKey]
) -> None:
    provider.keys = [RSAKey.import_key({**each.as_dict(private=True), "use": "enc"}) for each in keys]
    status, page = await browser.log_in()
    assert (status, "its keys cannot be read" in page) == (503, True), page
    provider.keys = [key("one")]
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    assert (await browser.log_in())[0] == 303  # that there were none was not kept


ODD_KEYS = [
    {"kty": "EC", "crv": "P-192", "x": "AA", "y": "AA", "kid": "odd", "use": "sig"},
    {"kty": "OKP", "crv": "of the future", "x": "AAAA", "kid": "odd"},
    {"kty": "RSA", "n": "AQAB", "kid": "odd"},
    {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
    {"n": 5},
    {**key("two").as_dict(private=False), "use": None},
    None,
    "odd",
]


async def test_keys_that_are_not_understood_are_passed_over(provider: LoginProvider, browser: Browser) -> None:
    provider.odd_keys = ODD_KEYS
    assert (await browser.log_in())[0] == 303


async def test_a_token_that_names_no_key_is_tried_with_each(provider: LoginProvider, browser: Browser) -> None:
    provider.keys, provider.bend = [key("two"), key("one")], without_key_id
    assert (await browser.log_in())[0] == 303
    provider.bend = lambda claims: without_key_id(claims)[:-9] + "AAAAAAAAA"
    assert (await browser.log_in())[0] == 403


async def test_a_key_that_is_changed_under_its_old_name_is_asked_for_again(
    provider: LoginProvider, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await browser.log_in())[0] == 303
    changed = RSAKey.import_key({**key("two").as_dict(private=True), "kid": "one"})
    provider.keys, provider.bend = [changed], lambda claims: jwt.encode({"alg": "RS256", "kid": "one"}, claims, changed)
    monkeypatch.setattr(oidc, "AGAIN_S", 1000.0)
    assert (await browser.log_in())[0] == 403
    assert provider.asked.count("keys") == 1
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    assert (await browser.log_in())[0] == 303


@pytest.mark.parametrize("broken", ["discovery", "issuer", "keys"])
async def test_a_provider_that_answers_with_errors_is_left_alone_in_between(
    provider: LoginProvider, browser: Browser, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(oidc, "AGAIN_S", 1000.0)
    provider.broken, provider.discovery = broken, {"issuer": "another"} if broken == "issuer" else {}

    async def fail() -> int:
        return (await (browser.log_in() if broken == "keys" else browser.get(f"{browser.url}/login/provider")))[0]

    assert [await fail() for _ in range(3)] == [503] * 3
    assert provider.asked.count("keys" if broken == "keys" else "discovery") == 1
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    provider.broken, provider.discovery = "", {}
    assert (await browser.log_in())[0] == 303


async def test_a_clock_that_is_set_makes_nothing_old(provider: LoginProvider) -> None:
    now = time.time()
    asking = oidc.Provider(provider.url, CLIENT, SECRET, Groups.parse(ROLES), "openid", clock=lambda: now)
    for _ in range(3):
        now += 2 * oidc.KNOWN_S
        await asking.begin(oidc.Attempt.new("/"), "http://office/back")
    assert provider.asked == ["discovery"]


@pytest.mark.parametrize("way", ["public", "form"])
async def test_a_client_says_who_it_is_as_the_provider_wants_it(
    bridge_settings: BridgeSettings, provider: LoginProvider, way: str
) -> None:
    options: dict[str, Any] = {}
    if way == "public":
        provider.secret = options["oidc_client_secret"] = None
    else:
        provider.discovery["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    async with backoffice(bridge_settings, **settings(provider, **options)) as api:
        provider.redirects, browser = {f"{api.url}{BACK}"}, Browser(api.url)
        assert (await browser.log_in())[0] == 303
        await browser.http.close()


async def test_a_wrong_secret_says_what_to_set(provider: LoginProvider, browser: Browser) -> None:
    provider.secret = "another"
    status, page = await browser.log_in()
    assert (status, "are BACKOFFICE_OIDC_CLIENT_ID and BACKOFFICE_OIDC_CLIENT_SECRET right" in page) == (503, True)


@pytest.mark.parametrize(
    ("discovery", "says"),
    [
        ({"issuer": "https://other.example"}, "set BACKOFFICE_OIDC_ISSUER to that"),
        ({"token_endpoint": "http://other.example/token"}, "no https address"),
        ({"jwks_uri": "file:///etc/passwd"}, "no https address"),
        ({"authorization_endpoint": None}, "no https address"),
        ({"code_challenge_methods_supported": ["plain"]}, "PKCE"),
        ({"padding": "x" * oidc.ANSWER_BYTES}, "more than"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_provider_that_cannot_be_used_is_told_with_the_reason(
    provider: LoginProvider, browser: Browser, discovery: dict[str, Any], says: str
) -> None:
    provider.discovery = discovery
    status, page = await browser.get(f"{browser.url}/login/provider")
    assert (status, says in page) == (503, True), page


async def test_while_the_provider_is_away_passwords_work(
    bridge_settings: BridgeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = LoginProvider()
    async with provider:
        pass
    async with backoffice(bridge_settings, **settings(provider)) as api:
        browser = Browser(api.url)
        async with browser.http.get(f"{api.url}/login/provider") as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "2"
            assert "cannot be used now" in await response.text()
        assert (await api.as_(None).post("/session", {"name": "admin", "password": PASSWORD})).status == 200
        monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
        async with provider:
            provider.redirects = {f"{api.url}{BACK}"}
            assert (await browser.log_in())[0] == 303
        await browser.http.close()


async def test_a_provider_that_does_not_answer_is_not_waited_for(
    provider: LoginProvider, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert oidc.ANSWER_S <= 5
    monkeypatch.setattr(oidc, "ANSWER_S", 2.0)
    monkeypatch.setattr(oidc, "AGAIN_S", 1000.0)
    provider.gate.clear()
    for _ in range(2):
        async with asyncio.timeout(30):
            assert (await browser.get(f"{browser.url}/login/provider"))[0] == 503
    assert provider.asked == ["discovery"]  # the second time is too soon
    provider.gate.set()


async def test_behind_a_proxy_it_ends_on_whichever_back_office(
    bridge_settings: BridgeSettings, provider: LoginProvider, database_url: str
) -> None:
    options = settings(provider, trusted_proxies="127.0.0.1")
    provider.redirects = {f"https://office.example{BACK}"}
    async with (
        backoffice(bridge_settings, database_url=database_url, name="first", **options) as first,
        backoffice(bridge_settings, database_url=database_url, name="second", **options) as second,
        aiohttp.ClientSession(headers=PROXIED, cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        async with http.get(f"{first.url}/login/provider", allow_redirects=False) as left:
            cookie = left.cookies["__Host-login"]
            assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Lax")
            assert 0 < int(cookie["max-age"]) <= 600
        async with http.get(URL(left.headers["Location"], encoded=True), allow_redirects=False) as answer:
            back = URL(answer.headers["Location"], encoded=True)
        assert str(back).startswith(f"https://office.example{BACK}?")
        sent = {"Cookie": f"__Host-login={cookie.value}"}
        async with http.get(f"{second.url}{back.raw_path_qs}", headers=sent, allow_redirects=False) as entered:
            assert entered.status == 303
            assert entered.cookies["__Host-session"]["secure"]
            assert entered.cookies["__Host-login"].value == ""


async def test_in_plain_http_beyond_loopback_nobody_is_sent_there(office: Api) -> None:
    for path in ("//login/provider", f"/{BACK}?state=x&code=y"):
        answer = await office.as_(None).get(path, headers={"Host": "office.example"})
        assert (answer.status, b"log in over https" in answer.body) == (403, True)


async def test_guesses_of_codes_are_throttled(
    provider: LoginProvider, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "FIRST_WAIT_S", 200.0)

    async def guess() -> int:
        return (await browser.get(str(URL(await browser.way_back()).update_query(code="guess"))))[0]

    statuses = [await guess() for _ in range(FREE_FAILURES + 3)]
    assert statuses == [403] * FREE_FAILURES + [429] * 3
    assert provider.asked.count("token") == FREE_FAILURES


async def test_the_button_is_there_where_there_is_a_provider(api: Api, office: Api) -> None:
    for language, says in (("en", "Log in with single sign-on"), ("ko", "통합 인증(SSO)으로 로그인")):
        headers = {"Accept-Language": language}
        page = (await office.as_(None).get("//login?next=/rooms", headers=headers)).body.decode()
        assert says in page
        assert 'href="/login/provider?next=/rooms"' in page
        assert "/login/provider" not in (await api.as_(None).get("//login", headers=headers)).body.decode()
    assert (await api.as_(None).get("//login/provider")).status == 404
    failed = await office.as_(None).get(f"/{BACK}", headers={"Accept-Language": "ko"})
    assert "로그인하지 못했습니다" in failed.body.decode()
    assert "not begun in this browser" in failed.body.decode()


def test_the_greatest_role_of_somebodys_groups_is_theirs() -> None:
    groups = Groups.parse(" groups : chat-mods=moderator, chat admins = admin,a=b=viewer")
    for value, role in (
        (["chat-mods"], Role.MODERATOR), (["chat admins", "chat-mods", 7], Role.ADMIN), ("a=b", Role.VIEWER),
        ([], None), (None, None), (["Chat-Mods"], None), ({"chat-mods": 1}, None),
    ):  # fmt: skip
        assert groups.role({"groups": value}) is role, value
    assert Groups.parse("realm_access.roles:x=admin").role({"realm_access": {"roles": ["x"]}}) is Role.ADMIN
    assert Groups.parse("realm_access.roles:x=admin").role({"realm_access": ["x"]}) is None
    assert Groups.parse("https://a.example/roles:urn:x=admin").role({"https://a.example/roles": "urn:x"}) is Role.ADMIN


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "write CLAIM:"), ("groups", "write CLAIM:"), ("groups:", "write CLAIM:"), ("groups:x", "write GROUP=ROLE"),
     ("groups:x=root", "role 'root' is none of"), ("groups:x=admin,x=viewer", "twice"), ("groups:=admin", "GROUP=")],
)  # fmt: skip
def test_a_mapping_that_cannot_be_read_says_how_it_is_written(text: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        Groups.parse(text)
