"""What callers hear while Redis is away, stopped, full, or comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.backoffice.service import PASSWORD, Answer, Api, backoffice, settings
from tests.servers import Server
from tests.waiting import until

PROMPT_S = 1.0
READS = ("/commands/1-1-1", "/nodes", "/shards", "/shards/0/pending", "/dead", "/dead/1-1-1", "/rooms", "/rooms/lobby",
         "/rooms/lobby/history", "/users/u7", "/sanctions")  # fmt: skip
ROOM = {"type": "room.open", "subject": "room:lobby", "payload": {}}


@pytest.fixture
async def api(own_server: Server) -> AsyncIterator[Api]:
    async with backoffice(settings(own_server.url)) as client:
        yield client


async def check_unavailable(api: Api) -> None:
    """Every call is answered in time, and a command's answer has the key to repeat it with."""
    started = asyncio.get_running_loop().time()
    issued, batch, sent, drained, requeued, *read = await asyncio.gather(
        api.post("/commands?wait=5", ROOM, headers={"Idempotency-Key": "mine"}),
        api.post("/commands/batch", {"commands": [ROOM, ROOM, {**ROOM, "idempotency_key": "third"}]}),
        api.post("/broadcasts", {"type": "config.reload", "scope": "all", "payload": {}}),
        api.post("/nodes/node-a/drain"),
        api.post("/dead/requeue", {"filter": {}, "reason": "x"}),
        *(api.get(path) for path in READS),
    )
    assert asyncio.get_running_loop().time() - started < PROMPT_S + 0.3  # they all share two cores
    for answer in (issued, sent, drained, *read):
        assert (answer.status, answer.json["code"]) == (503, "unavailable"), answer.body
        assert int(answer.headers["Retry-After"]) >= 1
    assert requeued.status == 503
    assert issued.json["idempotency_key"] == "mine"
    assert [result["status"] for result in batch.json["results"]] == [503] * 3
    assert batch.json["results"][2]["problem"]["idempotency_key"] == "third"
    assert (await api.get("//healthz")).json == {"status": "ok"}
    assert (await api.get("//readyz")).status == 503


async def works(api: Api) -> Answer | None:
    answer = await api.post("/commands", ROOM)
    return answer if answer.status == 202 else None


async def test_while_the_server_is_stopped_calls_are_answered_within_a_second(api: Api, own_server: Server) -> None:
    own_server.stop()
    try:
        started = asyncio.get_running_loop().time()
        assert (await api.post("/commands", ROOM)).status == 503
        assert asyncio.get_running_loop().time() - started < PROMPT_S
        await check_unavailable(api)
    finally:
        own_server.cont()
    await until(lambda: works(api))


async def test_while_the_server_is_gone_calls_are_answered_within_a_second(api: Api, own_server: Server) -> None:
    own_server.kill()
    await check_unavailable(api)
    await own_server.restart()
    await until(lambda: works(api))
    assert (await api.get("//readyz")).json["checks"]["redis"] == "ok"


async def test_a_key_repeated_after_an_outage_is_done_once(api: Api, own_server: Server) -> None:
    headers = {"Idempotency-Key": "mine"}
    own_server.stop()
    lost = await api.post("/commands", ROOM, headers=headers)
    assert lost.status == 503
    own_server.cont()

    async def repeated() -> Answer | None:
        answer = await api.post("/commands", ROOM, headers=headers)
        return answer if answer.status < 300 else None

    first = await until(repeated)
    again = await api.post("/commands", ROOM, headers=headers)
    assert (again.status, again.json["id"]) == (200, first.json["id"])
    assert sum(shard["length"] for shard in (await api.get("/shards")).json["items"]) == 1


async def test_a_full_server_refuses_with_the_time_to_come_back(api: Api, own_server: Server) -> None:
    redis = own_server.client()
    await redis.config_set("maxmemory", 1)
    refused = await api.post("/commands", ROOM, headers={"Idempotency-Key": "mine"})
    assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json["idempotency_key"] == "mine"
    assert (await api.get("/shards")).status == 200
    await redis.config_set("maxmemory", 0)
    assert (await api.post("/commands", ROOM)).status == 202


async def test_a_server_that_forgot_everything_takes_commands_at_once(api: Api, own_server: Server) -> None:
    assert (await api.post("/commands", ROOM)).status == 202
    redis = own_server.client()
    await redis.flushall()
    await redis.script_flush()
    assert (await api.post("/commands", ROOM)).status == 202


async def test_pages_say_in_their_own_words_that_the_server_is_away(api: Api, own_server: Server) -> None:
    async with aiohttp.ClientSession(api.url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        own_server.stop()
        try:
            form = {"name": "admin", "password": PASSWORD, "next": "/"}
            async with browser.post("/login", data=form, headers={"Sec-Fetch-Site": "same-origin"}) as overview:
                assert (overview.status, overview.url.path) == (200, "/")
            for path in ("/rooms", "/users/bo", "/shards", "/dead"):
                started = asyncio.get_running_loop().time()
                async with browser.get(path) as page:
                    assert (page.status, page.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
                    assert "Redis did not answer in time" in await page.text()
                assert asyncio.get_running_loop().time() - started < 2 * PROMPT_S
            async with browser.get("/audit") as audit:
                assert audit.status == 200
        finally:
            own_server.cont()
