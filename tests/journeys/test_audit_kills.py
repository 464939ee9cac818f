"""However often the back office is killed: what was accepted or refused stands in the audit chain, and the chain holds.

No node is there, so that every accepted command but the cancelled ones stays in its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import pytest

from bridge.keys import Keys
from bridge.rest import NotAnswered, Refused, RestApi
from bridge.shards import shard_of
from tests.faults.pace import elapsed
from tests.figures import Figures
from tests.journeys.installation import TOKENS, Installation
from tests.servers import Server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SHARDS: Final = 4
CALLERS: Final = 16
BATCH: Final = 100  # whose intents take a while to be written: a kill comes before that
LIFE_S: Final = (0.05, 0.5)  # of a back office under load, until it is killed
Refusal = tuple[str, str | int, dict[str, Any], tuple[int, str]]
# What is refused: by whom it is asked for, and with what answer.
REFUSALS: Final[tuple[Refusal, ...]] = (
    ("viewer", "room.open", {"title": "R"}, (403, "forbidden")),  # by the route
    ("moderator", "room.freeze", {}, (403, "forbidden")),  # by the type
    ("operator", "room.open", {"title": 7}, (422, "invalid")),  # by the type's model
    ("operator", 7, {}, (422, "invalid")),  # by the body's
)


class Stands(NamedTuple):
    """A line of the audit table."""

    request: str
    result: str
    key: str | None  # idempotency key of the command


class Trial:
    """Callers who ask without pause, and repeat with the same key what nobody answered."""

    def __init__(self, chat: Installation, chance: random.Random) -> None:
        self.asked: dict[str, str] = {}  # idempotency key → subject, of commands that are allowed
        self.accepted: dict[str, str] = {}  # idempotency key → id that was answered
        self.refused: dict[str, str] = {}  # request → code that was answered
        self.done: list[str] = []  # requests that were answered otherwise
        self.unanswered = 0
        self._chat, self._chance = chat, chance
        self._numbers = itertools.count()
        self._serving = asyncio.Event()
        self._over = False
        self._calls = AsyncExitStack()
        self._apis: dict[str, RestApi] = {}

    async def run(self, kills: int) -> None:
        async with self._calls, asyncio.TaskGroup() as callers:
            await self._serve()
            for _ in range(CALLERS):
                callers.create_task(self._ask_on())
            for _ in range(kills):
                await elapsed(self._chance.uniform(*LIFE_S))
                self._serving.clear()
                assert await self._chat.backoffice.stop(signal.SIGKILL) != 0
                await self._serve()
            for refusal in REFUSALS:
                await self._refuse(next(self._numbers), refusal)
            await self._cancel_twice(next(self._numbers))
            self._over = True

    async def _serve(self) -> None:
        await self._chat.start_backoffice()
        for role, token in TOKENS.items():
            calls = RestApi.connect(self._chat.backoffice.url, token)
            self._apis[role] = await self._calls.enter_async_context(calls)
        self._serving.set()

    async def _ask_on(self) -> None:
        while not self._over:
            number = next(self._numbers)
            kinds = (self._issue, self._issue_many, self._refuse, self._cancel_twice)
            ask = self._chance.choices(kinds, (4, 4, 3, 1))[0]
            await ask(number)

    async def _issue(self, number: int) -> str:
        key, body = self._command(number)
        id: str = (await self._call("operator", "POST", "/commands", body, key))["id"]
        assert self.accepted.setdefault(key, id) == id
        return id

    async def _issue_many(self, _number: int) -> None:
        commands = [self._command(next(self._numbers)) for _ in range(BATCH)]
        body = {"commands": [{**command, "idempotency_key": key} for key, command in commands]}
        answer = await self._call("operator", "POST", "/commands/batch", body)
        for (key, _), result in zip(commands, answer["results"], strict=True):
            if result["status"] != 503:  # as of a call of its own
                assert self.accepted.setdefault(key, result["id"]) == result["id"]

    def _command(self, number: int) -> tuple[str, dict[str, Any]]:
        """Its idempotency key and its body."""
        key, subject = f"key-{number}", f"room:r{number % 50}"
        self.asked[key] = subject
        return key, {"type": "room.open", "subject": subject, "payload": {"title": "R"}}

    async def _refuse(self, number: int, refusal: Refusal | None = None) -> None:
        role, type, payload, answer = refusal or self._chance.choice(REFUSALS)
        body = {"type": type, "subject": f"room:r{number % 50}", "payload": payload}
        await self._is_refused(answer, role, "POST", "/commands", body)

    async def _cancel_twice(self, number: int) -> None:
        path = f"/commands/{await self._issue(number)}"
        with contextlib.suppress(Refused):  # the first answer was lost
            await self._call("operator", "DELETE", path)
        await self._is_refused((409, "conflict"), "operator", "DELETE", path)

    async def _is_refused(self, answer: tuple[int, str], *call: Any) -> None:
        with pytest.raises(Refused) as refused:
            await self._call(*call)
        assert (refused.value.status, refused.value.code) == answer

    async def _call(self, role: str, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        """The answer, however many requests it takes."""
        while True:
            await self._serving.wait()
            request = f"request-{next(self._numbers)}"
            headers = {"X-Request-Id": request} | ({} if key is None else {"Idempotency-Key": key})
            try:
                answer = await self._apis[role].call(method, path, body, headers=headers)
            except NotAnswered:
                self.unanswered += 1
            except Refused as refused:
                if refused.status == 503:  # the machine is busy; what the chain has of it says nothing of who may what
                    continue
                self.refused[request] = refused.code
                raise
            else:
                self.done.append(request)
                return answer


@pytest.fixture
async def chat(own_server: Server) -> AsyncIterator[Installation]:
    installation = Installation(own_server, shards=SHARDS, backlog_limit=1_000_000)
    installation.expected.append('"alarm"')  # nobody handles what is accepted
    yield installation
    await installation.destroy()
    assert not installation.complaints()


async def test_every_command_of_a_killed_back_office_has_its_intent_and_the_chain_holds(
    chat: Installation, figures: Figures, seed: int, full: bool
) -> None:
    trial, kills = Trial(chat, random.Random(f"{seed} audit")), 50 if full else 4
    await trial.run(kills)
    told = await verified(chat)
    stand = list(table(chat))
    intents = {entry.key for entry in stand if entry.result == "intended"}
    begun = {entry.request for entry in stand if entry.result == "intended"}
    refused = {(entry.request, entry.result) for entry in stand}
    effects = await in_redis(chat, trial.asked)
    figures.report(
        "SIGKILL of the back office", seed=seed, kills=kills, entries=len(stand), in_redis=len(effects),
        accepted=len(trial.accepted), refused=dict(Counter(trial.refused.values())), unanswered=trial.unanswered,
        without_intent=len(effects - intents),
    )  # fmt: skip
    assert effects - intents == set()
    assert trial.accepted.keys() <= effects
    assert [request for request in trial.done if request not in begun] == []
    unheard = {(request, f"refused {code}") for request, code in trial.refused.items() if request not in begun}
    assert unheard - refused == set()
    assert told["ok"], told["broken"]
    assert sum(chain["entries"] for chain in told["chains"]) == len(stand)
    assert trial.unanswered > 0  # the kills came while there was something to lose
    assert {"forbidden", "invalid", "conflict"} <= set(trial.refused.values())


async def verified(chat: Installation) -> dict[str, Any]:
    """What ``chatbridge audit verify`` says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge.cli", "audit", "verify", "--json",
        "--url", chat.backoffice.url, "--token", TOKENS["viewer"],
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    told: dict[str, Any] = json.loads(out)
    return told


def table(chat: Installation) -> Iterator[Stands]:
    with contextlib.closing(sqlite3.connect(chat.database)) as database:
        for request, result, detail in database.execute("SELECT request_id, result, detail FROM audit ORDER BY seq"):
            yield Stands(request, result, json.loads(detail).get("idempotency_key"))


async def in_redis(chat: Installation, asked: dict[str, str]) -> set[str]:
    """The idempotency keys of those commands that have an id; no two of the streams have the same."""
    client, keys = chat.server.client(), Keys()
    streams = [await client.xrange(keys.commands(shard)) for shard in range(SHARDS)]
    found = [fields[b"idem"].decode() for entries in streams for _, fields in entries]
    assert len(found) == len(set(found))
    marks = [keys.idem(shard_of(subject, SHARDS), "operator", subject, key) for key, subject in asked.items()]
    known = await client.mget(marks)
    return {*found, *(key for key, id in zip(asked, known, strict=True) if id is not None)}
