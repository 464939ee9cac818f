"""Sessions travel over https, or do not leave the machine."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from pydantic import SecretStr
from yarl import URL

from backoffice import listening
from backoffice.config import BackofficeSettings
from backoffice.proxies import is_loopback
from backoffice.ui.single_sign_on import BACK
from bridge.config import BridgeSettings, load
from tests.backoffice.audited import audited
from tests.backoffice.certificates import certificate
from tests.backoffice.login_provider import CLIENT, SECRET, LoginProvider
from tests.backoffice.service import PASSWORD, Api, backoffice

HERE = {"Sec-Fetch-Site": "same-origin"}
WHO = {"name": "admin", "password": PASSWORD}
PROXIED = {**HERE, "Host": "office.example", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}


async def log_in(api: Api, headers: Mapping[str, str] = HERE) -> tuple[int, SimpleCookie]:
    answer = await api.as_(None).post("/session", WHO, headers=headers)
    return answer.status, SimpleCookie(answer.headers.get("Set-Cookie", ""))


async def me(api: Api, cookie: str, headers: Mapping[str, str]) -> int:
    return (await api.as_(None).get("/session", headers={**headers, "Cookie": cookie})).status


async def test_on_loopback_the_cookie_is_plain(api: Api) -> None:
    status, cookies = await log_in(api)
    assert (status, list(cookies)) == (200, ["session"])
    assert not cookies["session"]["secure"]


@pytest.mark.parametrize("host", ["office.example", "10.0.0.7:8080", "[fe80::1]", "127.0.0.1.evil.example", "@", ""])
async def test_in_plain_http_beyond_loopback_nobody_has_a_session(api: Api, host: str) -> None:
    _, cookies = await log_in(api)
    beyond = {**HERE, "Host": host}
    status, refused = await log_in(api, beyond)
    assert (status, list(refused)) == (403, [])
    assert await me(api, f"session={cookies['session'].value}", beyond) == 401
    assert await me(api, f"session={cookies['session'].value}", HERE) == 200


async def test_the_login_page_says_so(api: Api) -> None:
    headers = {**HERE, "Host": "office.example", "Content-Type": "application/x-www-form-urlencoded"}
    for answer in (
        await api.as_(None).get("//login", headers=headers),
        await api.as_(None).post("//login", data=urlencode(WHO).encode(), headers=headers),
    ):
        assert answer.status == 403
        assert b"log in over https" in answer.body
        assert "Set-Cookie" not in answer.headers


async def test_behind_a_trusted_proxy_the_cookie_is_for_https_alone(bridge_settings: BridgeSettings) -> None:
    async with backoffice(bridge_settings, trusted_proxies="127.0.0.1") as api:
        status, cookies = await log_in(api, PROXIED)
        assert (status, list(cookies)) == (200, ["__Host-session"])
        cookie = cookies["__Host-session"]
        assert (cookie["secure"], cookie["httponly"], cookie["path"], cookie["domain"]) == (True, True, "/", "")
        assert cookie["samesite"] == "Lax"
        assert await me(api, f"__Host-session={cookie.value}", PROXIED) == 200
        # A name without the prefix may have been set by another site of this domain, or in plain HTTP.
        assert await me(api, f"session={cookie.value}", PROXIED) == 401
        for told in ("http", "", "https, http", "HTTPS"):
            assert (await log_in(api, {**PROXIED, "X-Forwarded-Proto": told}))[0] == 403, told
        two = CIMultiDict(PROXIED)
        two.add("X-Forwarded-Proto", "http")  # the proxy's own line, below one that the caller made up
        assert (await log_in(api, two))[0] == 403
        entry = (await api.get("/audit?action=session.log_in&limit=1")).json["items"][0]
        assert entry["address"] == "203.0.113.9"


HOPS = {
    "one line": (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
    "a line added below the caller's": (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
    "proxies of ours": (["198.51.100.1", "203.0.113.9, 10.0.0.7", "10.0.0.8"], "203.0.113.9"),
    "with a port": (["203.0.113.9:4711"], "203.0.113.9"),
    "in brackets": (["[2001:db8::9]"], "2001:db8::9"),
    "in brackets, with a port": (["[2001:DB8:0::9]:4711"], "2001:db8::9"),
    "of four bytes in sixteen": (["::ffff:203.0.113.9"], "203.0.113.9"),
    "a scope": (["fe80::1%" + "x" * 20], "127.0.0.1"),
    "a scope, farther away": (["fe80::1%eth0, 10.0.0.7"], "10.0.0.7"),
    "no address": (["198.51.100.1, unknown"], "127.0.0.1"),
    "nothing": ([""], "127.0.0.1"),
    "none": ([], "127.0.0.1"),
}


async def test_the_callers_address_is_the_last_that_no_trusted_proxy_has(bridge_settings: BridgeSettings) -> None:
    async with backoffice(bridge_settings, trusted_proxies="127.0.0.1,10.0.0.0/8") as api:
        for lines, _ in HOPS.values():
            headers = CIMultiDict(("X-Forwarded-For", line) for line in lines)
            assert (await api.as_(None).post("/tokens", {}, headers=headers)).status == 401
        entries = await audited(api, len(HOPS))
        assert [entry["address"] for entry in entries] == [address for _, address in HOPS.values()]


async def test_who_is_no_trusted_proxy_is_not_believed(bridge_settings: BridgeSettings) -> None:
    async with backoffice(bridge_settings, trusted_proxies="10.0.0.0/8") as api:
        assert (await log_in(api, PROXIED))[0] == 403
        assert list((await log_in(api, {**HERE, "Host": "localhost"}))[1]) == ["session"]


@pytest.mark.parametrize("trusted", ["127.0.0.1", "10.0.0.0/8"])
@pytest.mark.parametrize("told", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"])
async def test_a_loopback_host_behind_a_proxy_is_not_the_browsers_own(
    bridge_settings: BridgeSettings, trusted: str, told: str
) -> None:
    async with backoffice(bridge_settings, trusted_proxies=trusted) as api:
        _, cookies = await log_in(api)
        beyond = {**HERE, "Host": "localhost", told: "http"}
        status, refused = await log_in(api, beyond)
        assert (status, list(refused)) == (403, [])
        assert await me(api, f"session={cookies['session'].value}", beyond) == 401


@pytest.mark.parametrize(("published", "status"), [(None, 403), ("127.0.0.1", 200)])
async def test_who_comes_from_another_address_may_if_only_this_machine_can(
    bridge_settings: BridgeSettings, monkeypatch: pytest.MonkeyPatch, published: str | None, status: int
) -> None:
    monkeypatch.setattr(web.BaseRequest, "remote", "172.17.0.1")  # as a container's port has it, and also a neighbour
    async with backoffice(bridge_settings, published_on=published) as api:
        assert (await log_in(api))[0] == status


# Other sites of the same domain can set each of these, as none has the name that browsers keep for the site itself.
NOT_OURS = (
    "track=a {}",
    "track={}",
    "track=a\t{}",
    "track=a,{}",
    'track="a {}"',
    "\u2000{}",
    "\xa0{}",
    "track={}=",
    "$Path=/ {}",
)


async def test_a_session_in_another_cookies_value_is_none(bridge_settings: BridgeSettings) -> None:
    async with backoffice(bridge_settings, trusted_proxies="127.0.0.1") as api:
        _, cookies = await log_in(api, PROXIED)
        own = f"__Host-session={cookies['__Host-session'].value}"
        for given in NOT_OURS:
            assert await me(api, given.format(own), PROXIED) == 401, given
            assert await me(api, f"{given.format('__Host-session=evil')}; {own}", PROXIED) == 200, given
        assert await me(api, f"{own}; {own}", PROXIED) == 401
        assert await me(api, f"theme=dark;{own} ; track=a b", PROXIED) == 200


async def test_a_login_that_another_site_began_does_not_end_here(bridge_settings: BridgeSettings) -> None:
    async with LoginProvider() as provider:
        options: dict[str, Any] = {
            "oidc_issuer": provider.url,
            "oidc_client_id": CLIENT,
            "oidc_client_secret": SecretStr(SECRET),
            "oidc_roles": "groups:chat-mods=moderator",
        }
        async with backoffice(bridge_settings, trusted_proxies="127.0.0.1", **options) as api:
            provider.redirects = {f"https://office.example{BACK}"}
            left = await api.as_(None).get("//login/provider", headers=PROXIED, redirects=False)
            cookie = SimpleCookie(left.headers["Set-Cookie"])["__Host-login"].OutputString([])
            async with aiohttp.ClientSession() as http, http.get(left.headers["Location"], allow_redirects=False) as on:
                back = URL(on.headers["Location"]).path_qs
            for given, status in (("track=a {}", 403), ("{}", 303)):
                headers = {**PROXIED, "Cookie": given.format(cookie)}
                assert (await api.as_(None).get(f"/{back}", headers=headers, redirects=False)).status == status


async def test_it_speaks_https_itself(bridge_settings: BridgeSettings, tmp_path: Path) -> None:
    chain, key, trust = certificate(tmp_path)
    async with (
        backoffice(bridge_settings, host="127.0.0.1", tls_certificate=chain, tls_key=key) as api,
        aiohttp.ClientSession(api.url, connector=aiohttp.TCPConnector(ssl=trust)) as session,
    ):
        assert api.url.startswith("https://127.0.0.1:")
        async with session.post("/api/v1/session", json=WHO, headers={"Origin": api.url}) as answer:
            assert answer.status == 200
            assert list(answer.cookies) == ["__Host-session"]
            assert answer.cookies["__Host-session"]["secure"]


async def test_who_does_not_shake_hands_is_let_go(
    bridge_settings: BridgeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listening._HANDSHAKE["ssl_handshake_timeout"] <= 5
    monkeypatch.setitem(listening._HANDSHAKE, "ssl_handshake_timeout", 0.1)
    chain, key, _ = certificate(tmp_path)
    async with backoffice(bridge_settings, tls_certificate=chain, tls_key=key) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"HOST": "0.0.0.0", "TRUSTED_PROXIES": "10.0.0.7"},
        {"HOST": "0.0.0.0", "PUBLISHED_ON": "127.0.0.1"},
        {"HOST": "::", "TLS_CERTIFICATE": "chain.pem", "TLS_KEY": "key.pem"},
        {"HOST": "localhost"},
        {"HOST": "::1"},
    ],
    ids=str,
)
def test_where_the_way_is_private_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, str]
) -> None:
    certificate(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(f"BACKOFFICE_{name}", value)
    config = load(BackofficeSettings)
    assert config.host == settings["HOST"]
    assert isinstance(config.tls, ssl.SSLContext) == ("TLS_KEY" in settings)


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LocalHost", "a.localhost")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.0.0.1.example")))
