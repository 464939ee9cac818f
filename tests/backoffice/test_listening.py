"""Slow clients, request ids, probes, headers, and what people see."""

from __future__ import annotations

import asyncio

import pytest

from backoffice import intake, routes
from backoffice.problems import CODES
from tests.backoffice.service import TOKENS, Api
from tests.waiting import Stopwatch

HEAD = (
    b"POST /api/v1/commands HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n" % TOKENS["admin"].encode()
)

FORM_HEAD = (
    b"POST /login HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: same-origin\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\n"
)


async def drip(api: Api, first: bytes) -> tuple[bytes, float]:
    """Send ``first``, then a byte now and then; what came back until the end, and how long that took."""
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = b""
    writer.write(first)
    async with Stopwatch() as watch:
        try:
            while True:
                try:
                    async with asyncio.timeout(0.5):
                        part = await reader.read(4096)
                except TimeoutError:
                    if first:
                        writer.write(b"x")
                else:
                    if not part:
                        break
                    answer += part
        except ConnectionError:
            pass
        finally:
            writer.close()
    return answer, watch.seconds


async def test_slow_and_silent_clients_are_let_go_within_eight_seconds(api: Api) -> None:
    silent, slow_head, slow_body, slow_form, idle = await asyncio.gather(
        drip(api, b""),
        drip(api, b"GET / HTTP/1.1\r\nX-Slow: "),
        drip(api, HEAD),
        drip(api, FORM_HEAD),
        drip(api, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nG"),
    )
    for _, seconds in (silent, slow_head, slow_body, slow_form, idle):
        assert seconds < 8
    assert slow_body[0].startswith(b"HTTP/1.1 408 ")
    assert b'"code":"timeout"' in slow_body[0]
    assert slow_form[0].startswith(b"HTTP/1.1 408 ")
    assert idle[0].startswith(b"HTTP/1.1 200 ")


async def test_a_request_keeps_its_own_id_or_gets_one(api: Api) -> None:
    kept = await api.get("/commands/x", headers={"X-Request-Id": "trace-1/2"})
    assert kept.headers["X-Request-Id"] == kept.json["request_id"] == "trace-1/2"
    made = {(await api.get("/nodes")).headers["X-Request-Id"] for _ in range(3)}
    assert len(made) == 3
    for hostile in ("x" * 129, "a b", 'a"b', "ä"):
        answer = await api.get("/commands/x", headers={"X-Request-Id": hostile})
        assert answer.headers["X-Request-Id"] == answer.json["request_id"] != hostile


async def test_what_breaks_here_says_so_without_a_trace(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr(routes, "check_encoding", broken)
    answer = await api.get("/nodes", headers={"X-Request-Id": "trace-1"})
    assert (answer.status, answer.json["code"], answer.json["request_id"]) == (500, "internal", "trace-1")
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body


async def test_probes_take_no_token(api: Api) -> None:
    nobody = api.as_(None)
    assert (await nobody.get("//healthz")).json == {"status": "ok"}
    assert (await nobody.get("//readyz")).json["checks"]["redis"] == "ok"
    assert (await nobody.get("//metrics")).status == 200


async def test_metrics_count_by_route_and_not_by_path(api: Api) -> None:
    for n in range(3):
        await api.get(f"/commands/1-1-{n}")
    await api.get("//nothing")
    metrics = (await api.get("//metrics")).body.decode().splitlines()
    assert 'backoffice_requests_total{method="GET",route="/api/v1/commands/{id}",status="404"} 3.0' in metrics
    assert 'backoffice_requests_total{method="",route="none",status="404"} 1.0' in metrics
    assert "backoffice_redis_connected 1.0" in metrics


async def test_head_answers_like_get_without_a_body(api: Api) -> None:
    answer = await api.call("HEAD", "/nodes")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"", "application/json")
    assert (await api.call("HEAD", "/commands/x")).status == 404


async def test_pages_for_people_run_nothing(api: Api) -> None:
    for path in ("//", *(f"//problems/{code}" for code in CODES)):
        page = await api.as_(None).get(path)
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert (await api.get("//problems/%3Cscript%3E")).status == 404


async def test_every_answer_refuses_to_be_sniffed_or_stored(api: Api) -> None:
    for path in ("//", "//nothing", "/nodes", "/commands/x", "//metrics"):
        headers = (await api.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "backoffice"


async def test_a_thousand_bad_requests_leave_nothing_behind(api: Api) -> None:
    async def bad(n: int) -> int:
        answer = await api.post("/commands", data=b"[" * (n % 40 + 1))
        return answer.status

    assert set(await asyncio.gather(*(bad(n) for n in range(1000)))) == {400}
    assert (await api.get("//healthz")).status == 200


def test_a_slow_body_and_its_lingering_stay_below_eight_seconds() -> None:
    assert intake.BODY_SECONDS <= 5
