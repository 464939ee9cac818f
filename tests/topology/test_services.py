"""Back office and nodes, as processes, through the loss of a primary: they work again without a restart."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise

import aiohttp
import pytest

from bridge.client import Bridge
from bridge.rest import Refused
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.journeys.installation import Installation, Service
from tests.topologies import Topology
from tests.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
SHARDS, EVERY_S = 12, 0.05


@pytest.fixture
def detection_ms() -> int:
    """The services' calls may take a second."""
    return 2000


@pytest.fixture
async def chat(topology: Topology) -> AsyncIterator[Installation]:
    """Two nodes and a back office; at the end no log may tell of an error, but of a primary that is none any more."""
    installation = Installation(topology, shards=SHARDS)
    try:
        await installation.start("node-a", "node-b")
        yield installation
    finally:
        await installation.destroy()
    assert not [line for line in installation.complaints() if "not_primary" not in line]


class Posts:
    """While entered: somebody posts a command every 50 ms, each to the next room."""

    def __init__(self, chat: Installation) -> None:
        self.answered: list[tuple[float, str]] = []  # when, and the command's id
        self.refusals: Counter[str] = Counter()
        self.slowest = 0.0
        self._chat = chat
        self._calls: list[asyncio.Task[None]] = []
        self._posting = asyncio.create_task(self._post())

    async def __aenter__(self) -> Posts:
        await self.more(20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._posting.cancel()
        await asyncio.gather(self._posting, return_exceptions=True)
        await asyncio.gather(*self._calls)

    async def more(self, count: int) -> None:
        goal = len(self.answered) + count
        await until(lambda: len(self.answered) >= goal, 30, what=lambda: f"posts are answered; {self.refusals}")

    async def _post(self) -> None:
        n = 0
        while True:
            self._calls.append(asyncio.create_task(self._one(n)))
            n += 1
            await elapsed(EVERY_S)

    async def _one(self, n: int) -> None:
        body = {"type": "room.open", "subject": f"room:r{n % 40}", "payload": {"title": f"{n}"}}
        began = time.monotonic()
        try:
            answer = await self._chat.api.call("POST", "/commands", body)
            self.answered.append((time.monotonic(), answer["id"]))
        except Refused as refused:
            self.refusals[refused.code] += 1
        self.slowest = max(self.slowest, time.monotonic() - began)

    @property
    def gap_s(self) -> float:
        times = sorted(at for at, _ in self.answered)
        return max(later - earlier for earlier, later in pairwise(times))


@pytest.mark.parametrize("how", ["killed", pytest.param("planned", marks=pytest.mark.slow)])
async def test_services_work_again_without_a_restart(
    topology: Topology, chat: Installation, how: str, full: bool, figures: Figures
) -> None:
    async with Bridge.connect(topology.url, shards=SHARDS) as bridge:
        primary = await topology.owner(bridge.keys.live)
    async with Posts(chat) as posts:
        if how == "killed":
            primary.kill()
            await topology.promoted(primary)
        else:
            await topology.fail_over(primary)
        promoted = time.monotonic()
        for service in (chat.backoffice, *chat.nodes.values()):
            await until(lambda service=service: is_ready(service), 60, what=f"{service.name} is ready")
        ready_s = time.monotonic() - promoted
        for room in range(40):  # in every shard
            assert await until(partial(muted, chat, f"room:r{room}"), 60) == "done"
        await posts.more(20)
    figures.report(
        f"{topology.kind} {topology.engine} services, a primary {how}", answered=len(posts.answered),
        post_gap_s=round(posts.gap_s, 3), slowest_answer_s=round(posts.slowest, 3),
        ready_after_promotion_s=round(ready_s, 3), refused=dict(posts.refusals),
    )  # fmt: skip
    assert set(posts.refusals) <= {"unavailable"}
    if full:  # docs/figures.md has those of an idle machine
        assert posts.slowest < 2.5
        assert posts.gap_s < (4 if how == "planned" else 8)


async def muted(chat: Installation, room: str) -> str | None:
    """How it ended; None while its primary is looked for."""
    try:
        return str((await chat.operate("member.mute", room, user="u1"))["state"])
    except Refused as refused:
        if refused.code != "unavailable":
            raise
        return None


async def is_ready(service: Service) -> bool:
    health = str(service.where.get("health_url") or service.url + "/healthz")
    async with aiohttp.ClientSession() as session, session.get(health.replace("/healthz", "/readyz")) as answer:
        return answer.status == 200
