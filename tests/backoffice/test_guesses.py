"""A thousand guesses of a password: what the guesser gets, what they cost, and whom they keep out."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from backoffice import throttle
from backoffice.throttle import AT_HOME_S, FREE_FAILURES, MAX_KNOWN, Logins, Throttle
from bridge.config import BridgeSettings
from tests.backoffice.service import PASSWORD, Answer, Api, backoffice

GUESSES = 1000
SIDE_BY_SIDE = 50
GUESSER, HOME, ELSEWHERE = "203.0.113.9", "198.51.100.1", "198.51.100.2"


@pytest.fixture(autouse=True)
def _long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "FIRST_WAIT_S", 200.0)  # longer than a busy machine takes


@pytest.fixture
async def proxied(bridge_settings: BridgeSettings) -> AsyncIterator[Api]:
    """A back office that believes what callers say of their address."""
    async with backoffice(bridge_settings, trusted_proxies="127.0.0.1") as api:
        yield api


async def log_in(api: Api, name: str, password: str, address: str) -> Answer:
    headers = {"X-Forwarded-For": address, "X-Forwarded-Proto": "https", "X-Request-Id": "guess"}
    return await api.as_(None).post("/session", {"name": name, "password": password}, headers=headers)


async def guess(api: Api, name: str, addresses: Iterable[str]) -> list[Answer]:
    """A guess from each address, many side by side."""
    free = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(number: int, address: str) -> Answer:
        async with free:
            return await log_in(api, name, f"guess number {number}", address)

    return await asyncio.gather(*(one(number, address) for number, address in enumerate(addresses)))


async def hashes(api: Api) -> int:
    told = (await api.get("//metrics")).body.decode()
    [line] = [line for line in told.splitlines() if line.startswith("backoffice_password_hashes_total ")]
    return int(float(line.split()[1]))


def seen(answers: Iterable[Answer]) -> Counter[str]:
    """What a guesser can tell apart; the length of a wait is the clock's."""
    found: Counter[str] = Counter()
    for answer in answers:
        body: dict[str, Any] = answer.json
        headers = {**answer.headers, "Date": ""}
        if answer.status == 429:
            headers |= {"Retry-After": "", "Content-Length": ""}
            body["detail"] = re.sub(r"\d+ s$", "", body["detail"])
        found[f"{answer.status} {sorted(headers.items())} {sorted(body.items())}"] += 1
    return found


@pytest.mark.parametrize("many", [False, True], ids=["one address", "many addresses"])
async def test_a_thousand_guesses_are_throttled_before_they_are_hashed(proxied: Api, many: bool) -> None:
    addresses = [f"203.0.{n // 200}.{n % 200}" if many else GUESSER for n in range(GUESSES)]
    others = [address.replace("203.", "192.") for address in addresses]
    before = await hashes(proxied)
    known = await guess(proxied, "admin", addresses)
    between = await hashes(proxied)
    unknown = await guess(proxied, "nobody", others)
    assert Counter(answer.status for answer in known) == {401: FREE_FAILURES, 429: GUESSES - FREE_FAILURES}
    for answer in known:
        assert answer.status == 401 or 0 < int(answer.headers["Retry-After"]) <= 200
    # Whoever is not there costs as much, and is told the same.
    assert (between - before, await hashes(proxied) - between) == (FREE_FAILURES, FREE_FAILURES)
    assert seen(unknown) == seen(known)
    # What was turned away leaves next to nothing behind.
    chain = (await proxied.get("/audit?limit=500")).json
    assert chain["next_cursor"] is None
    assert len(chain["items"]) < 4 * FREE_FAILURES + 300


async def test_guesses_elsewhere_do_not_keep_an_operator_out(proxied: Api) -> None:
    assert (await log_in(proxied, "admin", PASSWORD, HOME)).status == 200
    await guess(proxied, "admin", [GUESSER] * 20)
    before = await hashes(proxied)
    for address in (GUESSER, ELSEWHERE):  # whoever found it out by now
        assert (await log_in(proxied, "admin", PASSWORD, address)).status == 429
    assert await hashes(proxied) == before
    assert (await log_in(proxied, "admin", PASSWORD, HOME)).status == 200


async def test_guesses_at_an_operators_own_address_are_throttled_too(proxied: Api) -> None:
    assert (await log_in(proxied, "admin", PASSWORD, HOME)).status == 200
    answers = await guess(proxied, "admin", [HOME] * 20)
    assert Counter(answer.status for answer in answers) == {401: FREE_FAILURES, 429: 20 - FREE_FAILURES}
    assert (await log_in(proxied, "admin", PASSWORD, HOME)).status == 429
    assert (await log_in(proxied, "admin", PASSWORD, ELSEWHERE)).status == 200  # the name itself was not guessed at


def test_where_an_operator_logs_in_is_forgotten_and_bounded() -> None:
    now = 0.0
    logins = Logins(Throttle(lambda: now), lambda: now)
    logins.succeeded("ann", HOME)
    assert logins.keys("ann", HOME)[1] == f"name ann at {HOME}"
    assert logins.keys("bo", HOME)[1] == "name bo"
    now = AT_HOME_S
    assert logins.keys("ann", HOME)[1] == "name ann"
    for number in range(MAX_KNOWN + 10):
        logins.succeeded("ann", str(number))
    assert len(logins._homes) == MAX_KNOWN
