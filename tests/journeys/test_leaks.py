"""Nothing that a muted or banned user sends after the operator read "done" is accepted, whatever happens to nodes.

Users talk without pause on every node while operators mute, ban and lift, and nodes are cut off, stopped,
killed, restarted and joined. Everything runs on this machine, so that its clock is the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from bridge.keys import Keys
from bridge.shards import shard_of
from tests.chatserver.client import token
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.journeys.installation import NODES, Installation
from tests.proxy import Proxy
from tests.servers import Server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SHARDS: Final = 16
USERS: Final = ("ann", "bob", "cho")  # each in a room of their own, so that nobody hears the others
JOINER: Final = "node-d"
TALK_S, AGAIN_S = 0.02, 0.1  # between two messages of a session; before it connects again
ANSWER_S = 5.0  # a node that is stopped answers later than that at times, and the session gives up
# What a sanction forbids to whoever asks for it after it was done.
FORBIDS: Final = {
    "member.mute": {"say"},
    "user.mute": {"say"},
    "member.ban": {"say", "join"},
    "user.ban": {"say", "join", "auth"},
}


@dataclass(frozen=True, slots=True)
class Held:
    """A sanction, from when its operator read "done" to when they sent its end. Ms since the epoch."""

    kind: str
    user: str
    done_at: float
    lifted_at: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user sent, and when it was granted (None: it was not, as far as they know)."""

    what: str  # auth, join or say
    user: str
    sent_at: float
    granted_at: float | None


def leaks(asked: list[Asked], held: list[Held]) -> list[tuple[Asked, Held]]:
    """What was granted although it was sent after "done", before the end was even asked for. Pure."""
    return [
        (one, sanction)
        for one in asked
        for sanction in held
        if one.granted_at is not None and _against(one, sanction) and one.granted_at < int(sanction.lifted_at)
    ]


def _against(asked: Asked, held: Held) -> bool:
    return (
        asked.user == held.user and asked.what in FORBIDS[held.kind] and held.done_at < asked.sent_at < held.lifted_at
    )


def now_ms() -> float:
    return time.time() * 1000


class Trial:
    """See the module. ``urls`` are the nodes that there are at the moment."""

    def __init__(self, chat: Installation, proxies: dict[str, Proxy], chance: random.Random) -> None:
        self.chat, self._proxies, self._chance = chat, proxies, chance
        self.urls = {name: node.url for name, node in chat.nodes.items()}
        self.asked: list[Asked] = []
        self.held: list[Held] = []
        self.refused: Counter[str] = Counter()
        self._over = asyncio.Event()

    @property
    def tries(self) -> int:
        """How often a user said something that was forbidden to them."""
        return sum(any(_against(one, held) for held in self.held) for one in self.asked if one.what == "say")

    async def run(self, rounds: int, tries: int) -> None:
        """So many rounds of every fault, and then until there were so many tries."""
        async with asyncio.TaskGroup() as everybody:
            for user in USERS:
                everybody.create_task(self._operate(user))
                for node in (*NODES, JOINER):
                    everybody.create_task(self._talk(user, node))
            for _ in range(rounds):
                await self._round()
            while self.tries < tries:
                await self._round()
            self._over.set()
        self.asked += [one for user in USERS for one in await self._kept(user)]

    # operators

    async def _operate(self, user: str) -> None:
        """Impose and lift one sanction after the other, each kind equally often."""
        for kind in itertools.cycle(self._chance.sample(list(FORBIDS), len(FORBIDS))):
            if self._over.is_set():
                return
            subject, payload = (f"room:{user}", {"user": user}) if kind.startswith("member") else (f"user:{user}", {})
            await self.chat.done(kind, subject, **payload, seconds=600)
            done_at = now_ms()
            await elapsed(self._chance.uniform(0.2, 0.8))
            self.held.append(Held(kind, user, done_at, now_ms()))
            await self.chat.done(kind.replace(".", ".un"), subject, **payload)
            await elapsed(self._chance.uniform(0.1, 0.3))

    # users

    async def _talk(self, user: str, node: str) -> None:
        """Be on the node whenever that is possible, and talk."""
        while not self._over.is_set():
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                if (url := self.urls.get(node)) is not None:
                    async with connect(url, subprotocols=[Subprotocol("bridge.v1")], open_timeout=ANSWER_S) as socket:
                        await self._converse(user, socket)
            await elapsed(AGAIN_S)

    async def _converse(self, user: str, socket: ClientConnection) -> None:
        ids, joined = itertools.count(1), False
        await self._ask(user, socket, next(ids), type="auth", token=token(user))
        while not self._over.is_set():
            if not joined:
                joined = await self._ask(user, socket, next(ids), type="join", room=user) == "joined"
            else:
                text = repr(now_ms())
                answer = await self._ask(user, socket, next(ids), type="say", room=user, text=text)
                joined = answer != "not_joined"
            await elapsed(TALK_S)

    async def _ask(self, user: str, socket: ClientConnection, id: int, **frame: Any) -> str:
        """The type of the answer, or the code of its error."""
        sent_at = float(frame["text"]) if frame["type"] == "say" else now_ms()
        granted_at: float | None = None
        try:
            async with asyncio.timeout(ANSWER_S):
                await socket.send(json.dumps({"id": id, **frame}))
                while (answer := json.loads(await socket.recv())).get("id") != id:
                    pass
            code = str(answer.get("code", answer["type"]))
            if answer["type"] != "error":
                granted_at = answer.get("ts", now_ms())  # of a message, when the server took it
            else:
                self.refused[code] += 1
        finally:
            self.asked.append(Asked(frame["type"], user, sent_at, granted_at))
        return code

    async def _kept(self, user: str) -> list[Asked]:
        """What the room has of it, the answers that got lost on the way included."""
        log = Keys().log(shard_of(f"room:{user}", SHARDS), f"room:{user}")
        entries = await self.chat.server.client().xrange(log)
        published = [orjson.loads(fields[b"p"]) for _, fields in entries]
        return [Asked("say", user, float(p["data"]["text"]), p["at"]) for p in published if p["type"] == "message"]

    # faults

    async def _round(self) -> None:
        faults = [self._cut_off, self._stop, self._restart, self._join]
        self._chance.shuffle(faults)
        for fault in faults:
            await fault(self._chance.choice(NODES))
            await elapsed(0.2)

    async def _cut_off(self, node: str) -> None:
        self._proxies[node].black_hole()
        await elapsed(self._chance.uniform(0.3, 2.0))
        self._proxies[node].heal()

    async def _stop(self, node: str) -> None:
        self.chat.nodes[node].send(signal.SIGSTOP)
        await elapsed(self._chance.uniform(0.3, 2.0))
        self.chat.nodes[node].send(signal.SIGCONT)

    async def _restart(self, node: str) -> None:
        del self.urls[node]
        await self.chat.nodes[node].stop(signal.SIGKILL)
        self.urls[node] = (await self.chat.start_node(node)).url

    async def _join(self, _node: str) -> None:
        joined = await self.chat.start_node(JOINER)
        self.urls[JOINER] = joined.url
        await elapsed(self._chance.uniform(0.3, 1.0))
        del self.urls[JOINER]
        await joined.stop()


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"shards": SHARDS, "history_length": 100_000}


@pytest.fixture
async def proxies(own_server: Server, start_proxy: Callable[..., Any]) -> dict[str, Proxy]:
    return {name: await start_proxy(own_server) for name in NODES}


@pytest.fixture
async def chat(own_server: Server, settings: dict[str, Any], proxies: dict[str, Proxy]) -> AsyncIterator[Installation]:
    """Three nodes, each with a way to the server that can be cut, and a room for each user."""
    installation = Installation(own_server, **settings)
    installation.redis_urls = {name: proxy.url for name, proxy in proxies.items()}
    try:
        await installation.start()
        for user in USERS:
            await installation.done("room.open", f"room:{user}", title=user)
        yield installation
    finally:
        await installation.destroy()
    assert not installation.complaints()


async def test_whatever_happens_to_nodes_no_sanctioned_user_gets_through(
    chat: Installation, proxies: dict[str, Proxy], figures: Figures, seed: int, full: bool
) -> None:
    trial = Trial(chat, proxies, random.Random(f"{seed} leaks"))
    try:
        await trial.run(*((10, 1000) if full else (1, 50)))
    finally:
        tries, found = trial.tries, leaks(trial.asked, trial.held)
        figures.report(
            "says after a sanction was done", seed=seed, tries=tries, leaks=len(found), sanctions=len(trial.held),
            accepted_otherwise=sum(one.granted_at is not None for one in trial.asked), refused=dict(trial.refused),
        )  # fmt: skip
    assert found == []
    assert {held.kind for held in trial.held} == set(FORBIDS)
    assert sum(one.what == "say" and one.granted_at is not None for one in trial.asked) > len(trial.held)


HELD = Held("user.mute", "ann", 1000.5, 2000.5)


@pytest.mark.parametrize(
    ("asked", "leaked"),
    [
        (Asked("say", "ann", 1000.6, 1001), True),
        (Asked("say", "ann", 1000.4, 1001), False),  # sent before it was done
        (Asked("say", "ann", 1000.6, 2001), False),  # taken after it was lifted
        (Asked("say", "ann", 1000.6, 2000), False),  # perhaps in the very moment
        (Asked("say", "ann", 1000.6, None), False),
        (Asked("say", "bob", 1000.6, 1001), False),
        (Asked("join", "ann", 1000.6, 1001), False),  # who is muted may listen
    ],
)
def test_what_counts_as_a_leak(asked: Asked, leaked: bool) -> None:
    assert bool(leaks([asked], [HELD])) == leaked
