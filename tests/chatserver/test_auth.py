from __future__ import annotations

import asyncio
import base64
import json
import time
from itertools import pairwise
from typing import Any, Self

import orjson
import pytest
from aiohttp import web
from joserfc import jws, jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey
from joserfc.jws import JWSRegistry

from bridge.errors import Misconfigured
from chatserver.auth import MAX_KEY_SET_BYTES, BadToken, Identity, KeysAway, Tokens, tokens_for
from tests.chatserver.client import SECRET, connected, token
from tests.chatserver.conftest import Chat
from tests.waiting import until

NOW = 1_800_000_000.0


def signed(claims: dict[str, Any], key: Any = None, algorithm: str = "HS256", **header: Any) -> str:
    key = key or OctKey.import_key(SECRET)
    return jwt.encode({"alg": algorithm, **header}, claims, key, registry=JWSRegistry(algorithms=[algorithm]))


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else orjson.dumps(value)
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def tokens(**options: Any) -> Tokens:
    return Tokens(SECRET, clock=lambda: NOW, **options)


async def test_a_good_token_names_its_user() -> None:
    assert await tokens().check(signed({"sub": "u1", "exp": NOW + 60})) == Identity("u1", "u1", NOW + 60)
    named = await tokens().check(signed({"sub": "u1", "exp": NOW + 60, "name": "앤"}))
    assert named.name == "앤"


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"sub": "u1"},
        {"exp": NOW + 60},
        {"sub": "u1", "exp": NOW - 5},
        {"sub": "u1", "exp": str(NOW + 60)},
        {"sub": "u1", "exp": True},
        {"sub": "u1", "exp": None},
        {"sub": None, "exp": NOW + 60},
        {"sub": 5, "exp": NOW + 60},
        {"sub": "", "exp": NOW + 60},
        {"sub": "u 1", "exp": NOW + 60},
        {"sub": "u" * 65, "exp": NOW + 60},
        {"sub": "u1\n", "exp": NOW + 60},
        {"sub": "u1", "exp": NOW + 60, "nbf": NOW + 60},
        {"sub": "u1", "exp": NOW + 60, "name": None},
        {"sub": "u1", "exp": NOW + 60, "name": 5},
        {"sub": "u1", "exp": NOW + 60, "name": "n" * 65},
    ],
)
async def test_claims_that_break_the_rules_are_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(BadToken):
        await tokens().check(signed(claims))


@pytest.mark.parametrize("exp", [NOW - 4, 10**30, 1e300])
async def test_tokens_may_be_just_over_or_last_for_ever(exp: float) -> None:
    assert (await tokens().check(signed({"sub": "u1", "exp": exp}))).user == "u1"


GOOD = {"sub": "u1", "exp": NOW + 60}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a.b.c",
        "..",
        "é.é.é",
        f"{part({'alg': 'none'})}.{part(GOOD)}.",
        f"{part({'alg': 'HS256'})}.{part(GOOD)}.",
        f"{part({'alg': 'HS256'})}.{part(GOOD)}.{part(b'x' * 32)}",
        f"{part({'alg': 5})}.{part(GOOD)}.x",
        f"{part([])}.{part(GOOD)}.x",
        f"{part(b'[' * 5000)}.{part(GOOD)}.x",
        signed(GOOD, OctKey.import_key("another secret of more than 32 bytes")),
        signed(GOOD, algorithm="HS512"),
    ],
)
async def test_what_is_not_signed_with_our_secret_is_refused(text: str) -> None:
    with pytest.raises(BadToken):
        await tokens().check(text)


HALF = json.loads('"\\ud800"')  # of a character


def odd(header: dict[str, Any]) -> str:
    """No token; its header has what orjson would not write."""
    return f"{part(json.dumps(header).encode())}.{part(GOOD)}.x"


@pytest.mark.parametrize(
    "header",
    [{"alg": HALF}, {"alg": "HS256", "crit": [HALF]}],
    ids=["algorithm", "critical"],
)
async def test_what_is_said_about_a_bad_header_can_be_sent(header: dict[str, Any]) -> None:
    with pytest.raises(BadToken) as refused:
        await tokens().check(odd(header))
    assert "ud800" in str(refused.value).encode().decode()


async def test_a_name_with_half_a_character_is_refused() -> None:
    text = json.dumps({**GOOD, "name": HALF})
    signed_half = jws.serialize_compact({"alg": "HS256"}, text, OctKey.import_key(SECRET))
    with pytest.raises(BadToken, match="name"):
        await tokens().check(signed_half)


async def test_issuer_and_audience_must_fit_where_they_are_set() -> None:
    strict = tokens(issuer="game", audience="chat")
    assert (await strict.check(signed({**GOOD, "iss": "game", "aud": ["shop", "chat"]}))).user == "u1"
    for claims in ({}, {"iss": "game"}, {"aud": "chat"}, {"iss": "other", "aud": "chat"}, {"iss": "game", "aud": "x"}):
        with pytest.raises(BadToken):
            await strict.check(signed({**GOOD, **claims}))


@pytest.mark.parametrize("key", ["", "short", "x" * 31, '{"keys": []}', '{"keys": 5}', "{}", '{"a'])
def test_a_key_that_protects_nothing_is_refused(key: str) -> None:
    with pytest.raises(Misconfigured, match="CHATSERVER_JWT_KEY"):
        Tokens(key)


async def test_keys_of_a_key_set_are_told_apart_and_not_mixed_up() -> None:
    rsa, ec = RSAKey.generate_key(2048, auto_kid=True), ECKey.generate_key("P-256", auto_kid=True)
    public = KeySet([rsa, ec]).as_dict(private=False)
    checked = Tokens(orjson.dumps(public).decode(), clock=lambda: NOW)
    assert (await checked.check(signed(GOOD, rsa, "RS256", kid=rsa.kid))).user == "u1"
    assert (await checked.check(signed(GOOD, ec, "ES256", kid=ec.kid))).user == "u1"
    stranger = RSAKey.generate_key(2048, auto_kid=True)
    with pytest.raises(BadToken):
        await checked.check(signed(GOOD, stranger, "RS256", kid=stranger.kid))
    # The public key is no secret: signed with it as if it were one.
    forged = signed(GOOD, OctKey.import_key("x" * 40), "HS256", kid=rsa.kid)
    with pytest.raises(BadToken):
        await checked.check(forged)


class Provider:
    """Publishes keys over HTTP, as they were when it was asked."""

    def __init__(self) -> None:
        self.keys: list[ECKey] = [new_key()]
        self.asked_at: list[float] = []
        self.fails = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.url = ""

    async def start(self, aiohttp_server: Any) -> Self:
        app = web.Application()
        app.router.add_get("/keys", self._answer)
        self.url = str((await aiohttp_server(app)).make_url("/keys"))
        return self

    async def tokens(self) -> Tokens:
        tokens = tokens_for(self.url, issuer=None, audience=None)
        await tokens.start()
        return tokens

    async def _answer(self, _: web.Request) -> web.Response:
        self.asked_at.append(time.monotonic())
        keys = KeySet(list(self.keys)).as_dict(private=False)
        await self.answers.wait()
        return web.Response(status=503) if self.fails else web.json_response(keys)


def new_key() -> ECKey:
    return ECKey.generate_key("P-256", auto_kid=True)


def by(key: ECKey, user: str = "u1") -> str:
    return signed({"sub": user, "exp": time.time() + 3600}, key, "ES256", kid=key.kid)


@pytest.fixture
async def provider(aiohttp_server: Any) -> Provider:
    return await Provider().start(aiohttp_server)


async def test_all_who_come_with_a_new_key_wait_for_one_key_set(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.auth.REFETCH_S", 0.0)
    checked, new = await provider.tokens(), new_key()
    provider.keys = [new]
    provider.answers.clear()
    first = asyncio.create_task(checked.check(by(new, "u1")))
    await until(lambda: len(provider.asked_at) == 2)
    second = asyncio.create_task(checked.check(by(new, "u2")))
    await until(lambda: checked._waiting == 2)
    provider.answers.set()
    assert [(await task).user for task in (first, second)] == ["u1", "u2"]
    assert len(provider.asked_at) == 2


async def test_a_key_set_asked_for_before_the_token_came_does_not_make_its_key_unknown(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.auth.REFETCH_S", 0.0)
    checked, new = await provider.tokens(), new_key()
    provider.answers.clear()
    stranger = asyncio.create_task(checked.check(by(new_key())))
    await until(lambda: len(provider.asked_at) == 2)
    provider.keys.append(new)
    user = asyncio.create_task(checked.check(by(new)))
    await until(lambda: checked._waiting == 2)
    provider.answers.set()
    with pytest.raises(BadToken, match="unknown key"):
        await stranger
    assert (await user).user == "u1"


async def test_strangers_do_not_make_us_ask_often_and_keep_nobody_out(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_s = 0.2
    monkeypatch.setattr("chatserver.auth.REFETCH_S", pause_s)
    checked, new = await provider.tokens(), new_key()
    refused = await asyncio.gather(*(checked.check(by(new_key())) for _ in range(20)), return_exceptions=True)
    assert {type(error) for error in refused} == {BadToken}
    assert len(provider.asked_at) <= 3  # at the start, for the first of them, and for those who came behind that
    provider.keys.append(new)
    assert (await checked.check(by(new))).user == "u1"
    assert all(after - before > 0.9 * pause_s for before, after in pairwise(provider.asked_at))
    asked = len(provider.asked_at)
    assert (await checked.check(by(provider.keys[0]))).user == "u1"
    assert len(provider.asked_at) == asked


async def test_while_nobody_tells_the_keys_an_unknown_one_may_be_good(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.auth.REFETCH_S", 0.0)
    checked, new = await provider.tokens(), new_key()
    provider.keys.append(new)
    provider.fails = True
    with pytest.raises(KeysAway):
        await checked.check(by(new))
    monkeypatch.setattr("chatserver.auth.REFETCH_S", 3600.0)
    with pytest.raises(KeysAway) as away:
        await checked.check(by(new))
    assert 0 < away.value.retry_after_s <= 3600
    assert len(provider.asked_at) == 2
    assert (await checked.check(by(provider.keys[0]))).user == "u1"
    monkeypatch.setattr("chatserver.auth.REFETCH_S", 0.0)
    provider.fails = False
    assert (await checked.check(by(new))).user == "u1"


async def test_a_withdrawn_key_lets_nobody_in_any_more(
    chat: Chat, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a restart; but while nobody tells the keys, those known hold."""
    monkeypatch.setattr("chatserver.auth.REFETCH_S", 0.0)
    monkeypatch.setattr("chatserver.auth.REFRESH_S", 0.0)
    monkeypatch.setattr("chatserver.node.REFRESH_S", 0.1)
    node = await chat.start_node(jwt_key=provider.url)
    [old], provider.fails = provider.keys, True
    asked = len(provider.asked_at)
    await until(lambda: len(provider.asked_at) >= asked + 3)
    async with connected(node.url) as client:
        assert (await client.ask("auth", token=by(old)))["type"] == "ready"
    provider.keys, provider.fails = [new_key()], False
    asked = len(provider.asked_at)
    await until(lambda: len(provider.asked_at) >= asked + 2)
    async with connected(node.url) as client:
        await client.send(type="auth", id=1, token=by(old))
        assert await client.close_code() == 4501


async def test_no_more_than_so_many_wait_for_a_key_set(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatserver.auth.REFETCH_S", 0.0)
    monkeypatch.setattr("chatserver.auth.MAX_WAITING", 1)
    checked = await provider.tokens()
    provider.answers.clear()
    first = asyncio.create_task(checked.check(by(new_key())))
    await until(lambda: checked._waiting == 1)
    with pytest.raises(KeysAway):
        await checked.check(by(new_key()))
    provider.answers.set()
    with pytest.raises(BadToken):
        await first
    assert checked._waiting == 0


async def test_a_client_whose_key_cannot_be_looked_up_may_come_again(
    chat: Chat, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.auth.REFETCH_S", 0.0)
    node, new = await chat.start_node(jwt_key=provider.url), new_key()
    provider.keys.append(new)
    provider.fails = True
    async with connected(node.url) as member, connected(node.url) as late:
        assert (await member.ask("auth", token=by(provider.keys[0])))["type"] == "ready"
        for client in (member, late):
            answer = await client.ask("auth", token=by(new))
            assert (answer["code"], answer["temporary"]) == ("unavailable", True)
            assert answer["retry_after_ms"] > 0
        monkeypatch.setattr("chatserver.hub.AUTH_S", 0.0)
        assert await late.close_code() == 1013
        provider.fails = False
        assert (await member.ask("auth", token=by(new)))["type"] == "ready"


async def test_who_waits_for_a_key_set_is_not_told_that_they_showed_no_token(
    chat: Chat, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatserver.auth.REFETCH_S", 0.0)
    node, new = await chat.start_node(jwt_key=provider.url), new_key()
    provider.keys.append(new)
    provider.answers.clear()
    async with connected(node.url) as client:
        await client.send(type="auth", id=1, token=by(new))
        await until(lambda: len(provider.asked_at) == 2)
        (here,) = node.node.hub.clients
        monkeypatch.setattr("chatserver.hub.AUTH_S", 0.0)
        assert await client.close_code() == 1013
    provider.answers.set()
    await until(lambda: not node.node.hub.clients)
    assert here.began is None  # one that is gone is not put on its user's list, where it would take another's place


async def test_a_key_set_that_cannot_be_fetched_refuses_to_start() -> None:
    with pytest.raises(Misconfigured, match="CHATSERVER_JWT_KEY"):
        await tokens_for("http://127.0.0.1:1/keys", issuer=None, audience=None).start()


async def test_tokens_of_the_tests_are_good() -> None:
    assert (await Tokens(SECRET).check(token("u1"))).user == "u1"


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ("x", "Invalid JSON Web Signature"),
        (token(exp=None), "Missing claim: 'exp'"),
        (token(seconds=-60), "is expired"),
    ],
)
async def test_who_is_turned_away_reads_what_is_wrong_with_the_token(sent: str, why: str) -> None:
    with pytest.raises(BadToken, match=why):
        await Tokens(SECRET).check(sent)


@pytest.mark.parametrize("padding", [300_000, MAX_KEY_SET_BYTES])
async def test_a_key_set_is_read_to_its_end_unless_it_is_too_large(aiohttp_server: Any, padding: int) -> None:
    key = ECKey.generate_key("P-256", auto_kid=True)

    async def keys(_: web.Request) -> web.Response:
        return web.json_response({"padding": "x" * padding, **KeySet([key]).as_dict(private=False)})

    app = web.Application()
    app.router.add_get("/keys", keys)
    server = await aiohttp_server(app)
    checked = tokens_for(str(server.make_url("/keys")), issuer=None, audience=None)
    if padding == MAX_KEY_SET_BYTES:
        with pytest.raises(Misconfigured, match="more than"):
            await checked.start()
        return
    await checked.start()
    claims = {"sub": "u1", "exp": time.time() + 3600}
    assert (await checked.check(signed(claims, key, "ES256", kid=key.kid))).user == "u1"
