"""What callers hear while Redis is away, stopped, full, or comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.backoffice.audited import audited
from tests.backoffice.service import PASSWORD, Answer, Api, backoffice, settings
from tests.servers import Server
from tests.waiting import Stopwatch, until

PROMPT_S = 1.0
READS = ("/commands/1-1-1", "/nodes", "/shards", "/shards/0/pending", "/dead", "/dead/1-1-1", "/rooms", "/rooms/lobby",
         "/rooms/lobby/history", "/users/u7", "/sanctions")  # fmt: skip
ROOM = {"type": "room.open", "subject": "room:lobby", "payload": {}}


@pytest.fixture
async def api(own_server: Server) -> AsyncIterator[Api]:
    async with backoffice(settings(own_server.url), prompt=True) as client:
        yield client


async def check_unavailable(api: Api) -> None:
    """Every call is answered in time, and a command's answer has the key to repeat it with."""
    async with Stopwatch() as watch:
        issued, batch, sent, drained, requeued, *read = await asyncio.gather(
            api.post("/commands?wait=5", ROOM, headers={"Idempotency-Key": "mine"}),
            api.post("/commands/batch", {"commands": [ROOM, ROOM, {**ROOM, "idempotency_key": "third"}]}),
            api.post("/broadcasts", {"type": "config.reload", "scope": "all", "payload": {}}),
            api.post("/nodes/node-a/drain"),
            api.post("/dead/requeue", {"filter": {}, "reason": "x"}),
            *(api.get(path) for path in READS),
        )
    assert watch.seconds < PROMPT_S + 0.3  # they all share two cores
    for answer in (issued, sent, drained, *read):
        assert (answer.status, answer.json["code"]) == (503, "unavailable"), answer.body
        assert int(answer.headers["Retry-After"]) >= 1
    assert requeued.status == 503
    assert issued.json["idempotency_key"] == "mine"
    assert [result["status"] for result in batch.json["results"]] == [503] * 3
    assert batch.json["results"][2]["problem"]["idempotency_key"] == "third"
    assert (await api.get("//healthz")).json == {"status": "ok"}
    assert (await api.get("//readyz")).status == 503


async def test_what_was_sent_to_a_server_that_stopped_is_told_as_unknown(own_server: Server) -> None:
    async with backoffice(settings(own_server.url)) as api:
        await until(lambda: works(api))
        own_server.stop()
        try:
            batch, cancelled = await asyncio.gather(
                api.post("/commands/batch", {"commands": [ROOM, ROOM]}), api.delete("/commands/1-1-1")
            )
        finally:
            own_server.cont()
        assert [result["status"] for result in batch.json["results"]] == [503] * 2
        assert cancelled.status == 503
        issued = await audited(api, 4, request_id=batch.headers["X-Request-Id"])
        # The second was not tried, as nobody had answered the first.
        assert [e["result"] for e in issued[2:]] == ["unknown: Redis did not answer", "failed unavailable"]
        [refused] = await audited(api, 1, action="commands.cancel")
        assert refused["result"] == "refused unavailable"


async def answer_of(api: Api, path: str) -> Answer | None:
    answer = await api.get(path)
    return answer if answer.status == 200 else None


async def works(api: Api) -> Answer | None:
    answer = await api.post("/commands", ROOM)
    return answer if answer.status == 202 else None


async def test_while_the_server_is_stopped_calls_are_answered_within_a_second(api: Api, own_server: Server) -> None:
    own_server.stop()
    try:
        async with Stopwatch() as watch:
            assert (await api.post("/commands", ROOM)).status == 503
        assert watch.seconds < PROMPT_S
        await check_unavailable(api)
    finally:
        own_server.cont()
    await until(lambda: works(api), 30)


async def test_while_the_server_is_gone_calls_are_answered_within_a_second(api: Api, own_server: Server) -> None:
    own_server.kill()
    await check_unavailable(api)
    await own_server.restart()
    await until(lambda: works(api), 30)

    async def ready() -> bool:
        return bool((await api.get("//readyz")).json["checks"]["redis"] == "ok")

    await until(ready)


async def test_a_key_repeated_after_an_outage_is_done_once(api: Api, own_server: Server) -> None:
    headers = {"Idempotency-Key": "mine"}
    own_server.stop()
    lost = await api.post("/commands", ROOM, headers=headers)
    assert lost.status == 503
    own_server.cont()

    async def repeated() -> Answer | None:
        answer = await api.post("/commands", ROOM, headers=headers)
        return answer if answer.status < 300 else None

    first = await until(repeated, 30)
    again = await until(repeated)
    assert (again.status, again.json["id"]) == (200, first.json["id"])

    shards = await until(lambda: answer_of(api, "/shards"))
    assert sum(shard["length"] for shard in shards.json["items"]) == 1


async def test_a_full_server_refuses_with_the_time_to_come_back(api: Api, own_server: Server) -> None:
    redis = own_server.client()
    await redis.config_set("maxmemory", 1)
    refused = await api.post("/commands", ROOM, headers={"Idempotency-Key": "mine"})
    assert (refused.status, refused.json["code"]) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json["idempotency_key"] == "mine"
    await until(lambda: answer_of(api, "/shards"))
    await redis.config_set("maxmemory", 0)
    await until(lambda: works(api))


async def test_a_server_that_forgot_everything_takes_commands_at_once(own_server: Server) -> None:
    async with backoffice(settings(own_server.url)) as api:
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
                async with Stopwatch() as watch, browser.get(path) as page:
                    assert (page.status, page.headers["Content-Type"]) == (503, "text/html; charset=utf-8")
                    assert "Redis did not answer in time" in await page.text()
                assert watch.seconds < 2 * PROMPT_S
            async with browser.get("/audit") as audit:
                assert audit.status == 200
        finally:
            own_server.cont()


async def test_while_the_server_is_away_nothing_says_that_all_is_well(
    api: Api, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backoffice.sampler.STALE_S", 2.0)
    monkeypatch.setattr("backoffice.alarms.STALE_S", 2.0)
    async with aiohttp.ClientSession(api.url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        form = {"name": "admin", "password": PASSWORD, "next": "/"}
        async with browser.post("/login", data=form, headers={"Sec-Fetch-Site": "same-origin"}) as page:
            assert page.status == 200

        async def overview() -> str:
            async with browser.get("/") as page:
                return await page.text()

        async def figures_are(there: bool) -> bool:
            lag = b"\nbackoffice_lag " + (b"0.0" if there else b"NaN") + b"\n"
            return lag in (await api.get("//metrics")).body

        async def cleared() -> bool:
            return "no_redis" not in await alarms(api)

        async def is_well() -> bool:
            return 'class="tiles"' in await overview()

        for well in (lambda: figures_are(True), cleared, is_well):
            await until(well, 60)
        own_server.stop()
        try:
            alarm = (await until(lambda: alarms(api, "no_redis"), 30))["no_redis"]
            assert (alarm["severity"], alarm["message"]) == ("critical", "Redis does not answer")
            page_then = await overview()
            assert "Redis does not answer" in page_then
            assert 'class="tiles stale"' in page_then
            assert "All is well" not in page_then
            assert await figures_are(False)
            assert alarm_metric(1) in (await api.get("//metrics")).body
        finally:
            own_server.cont()

        async def is_off() -> bool:
            return alarm_metric(0) in (await api.get("//metrics")).body

        for well in (cleared, is_off, lambda: figures_are(True), is_well):
            await until(well, 60)


def alarm_metric(value: int) -> bytes:
    return f'backoffice_alarm{{code="no_redis",severity="critical"}} {value}.0\n'.encode()


async def alarms(api: Api, *wanted: str) -> dict[str, Any]:
    """By code; empty while one of those is not there."""
    found = {alarm["code"]: alarm for alarm in (await api.get("/alarms")).json["items"]}
    return found if found.keys() >= set(wanted) else {}
