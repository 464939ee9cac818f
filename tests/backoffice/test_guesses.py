"""A thousand guesses of a password: what the guesser gets, what they cost, and whom they keep out."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest

from backoffice import passwords, throttle
from backoffice.passwords import PLACES, Passwords
from backoffice.throttle import AT_HOME_S, FREE_FAILURES, MAX_KNOWN, Logins, Throttle, network
from bridge.config import BridgeSettings
from tests.backoffice.service import PASSWORD, Answer, Api, backoffice
from tests.waiting import until

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


class Gate:
    """Hashes are computed once it is open; ``most`` is how many there were side by side."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.running = self.most = 0
        self._lock = threading.Lock()
        self._verify = passwords._verify

    def verify(self, password: str, hashed: str) -> bool:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.open.wait(60)
        try:
            return self._verify(password, hashed)
        finally:
            with self._lock:
                self.running -= 1


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(passwords, "_verify", gate.verify)
    yield gate
    gate.open.set()


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


async def test_who_leaves_before_their_password_is_checked_makes_no_room_for_another_beside_it(gate: Gate) -> None:
    begun = 0

    def count() -> None:
        nonlocal begun
        begun += 1

    async with Passwords.open(count) as checked:
        try:
            for _ in range(5):
                leaving = [asyncio.create_task(checked.fits("x", None)) for _ in range(2)]
                await until(lambda: gate.running == 2)
                for each in leaving:
                    each.cancel()
                await asyncio.wait(leaving)
            staying = asyncio.create_task(checked.fits("x", None))
            await asyncio.wait((staying,), timeout=0.05)
            assert (begun, gate.most) == (2, 2)
        finally:
            gate.open.set()
        assert await staying is False
        assert (begun, gate.most) == (3, 2)


async def test_strangers_wait_in_a_short_queue_and_beside_who_has_been_here(proxied: Api, gate: Gate) -> None:
    gate.open.set()
    assert (await log_in(proxied, "admin", PASSWORD, HOME)).status == 200
    gate.open.clear()
    strangers = {asyncio.create_task(log_in(proxied, f"n{n}", "a guess", f"203.0.113.{n}")) for n in range(PLACES + 1)}
    try:
        [turned_away], waiting = await asyncio.wait(strangers, return_when=asyncio.FIRST_COMPLETED)
        answers = [turned_away.result()]
        answers += [await log_in(proxied, "admin", PASSWORD, ELSEWHERE) for _ in range(FREE_FAILURES + 1)]
        assert {(answer.json["code"], answer.headers["Retry-After"]) for answer in answers} == {("overloaded", "2")}
        known = asyncio.create_task(log_in(proxied, "admin", PASSWORD, HOME))
    finally:
        gate.open.set()
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [401] * PLACES
    assert (await known).status == 200
    assert (await log_in(proxied, "admin", PASSWORD, ELSEWHERE)).status == 200  # to be turned away is no failure
    assert gate.most == 2


async def test_a_network_of_ipv6_counts_as_one_address(proxied: Api) -> None:
    answers = [await log_in(proxied, f"n{n}", "a guess", f"2001:db8:1:2::{n:x}") for n in range(FREE_FAILURES + 3)]
    assert [answer.status for answer in answers] == [401] * FREE_FAILURES + [429] * 3
    assert (await log_in(proxied, "n", "a guess", "2001:db8:1:3::1")).status == 401


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address: str, counts_as: str) -> None:
    assert network(address) == counts_as


def test_a_flood_of_single_failures_makes_nobody_forget_a_name_that_is_guessed_at() -> None:
    now = 0.0
    flooded = Throttle(lambda: now)
    for _ in range(FREE_FAILURES):
        flooded.failed("name admin")
    for number in range(MAX_KNOWN):
        flooded.failed(f"address {number}", f"name {number}")
    assert flooded.wait_s("name admin") > 0
    assert len(flooded) == MAX_KNOWN // 2 + 1
    for number in range(MAX_KNOWN):
        for _ in range(FREE_FAILURES):
            flooded.failed(f"address {number}")
    assert len(flooded) <= MAX_KNOWN


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
