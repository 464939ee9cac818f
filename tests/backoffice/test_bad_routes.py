"""Every route, and every form of the admin pages, has bad requests here; one without them fails the suite."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import psutil
import pytest
from pydantic import SecretStr

from backoffice.app import make_app, routes
from backoffice.config import BackofficeSettings
from backoffice.openapi import route as document_route
from backoffice.routes import PREFIX
from bridge.config import BridgeSettings
from bridge.registry import default
from tests.backoffice.conftest import both_databases
from tests.backoffice.service import CHAT_KEY, PASSWORD, TOKENS, Answer, Api

Bad = tuple[str, Any, int, list[str]]  # path, body, status, where its faults are
TIMES = [(f"{name}={value}", f"?{name}") for name in ("since", "until")
         for value in ("0.5", "2030-01-01", "2030-01-01T00:00:00", "2030-13-01T00:00:00Z", "")]  # fmt: skip
CURSORS = ("x", "AAAA", "bnVsbA", "W10", "%00", "a" * 1001)
EXAMPLES = {"id": "1-1-1", "name": "node-x", "shard": "0"}
LONG = "x" * 1001


def listing(path: str, *more: tuple[str, str]) -> list[Bad]:
    """What every list refuses, and ``more`` queries with the place of their fault."""
    limits = [(f"limit={value}", "?limit") for value in ("0", "501", "-1", "1e2", "ten", "")]
    cursors = [(f"cursor={value}", "?cursor") for value in CURSORS]
    return [(f"{path}?{query}", None, 422, [place]) for query, place in (*limits, *cursors, *more)]


def bodies(path: str, *given: tuple[Any, list[str]]) -> list[Bad]:
    return [(path, body, 422, places) for body, places in given]


def found(path: str, *parts: str, status: int = 404) -> list[Bad]:
    return [(path.format(part), None, status, [] if status == 404 else [""]) for part in parts]


BULK: list[tuple[Any, list[str]]] = [
    ({}, ["/reason"]),
    ({"reason": "x"}, [""]),
    ({"reason": "x", "filter": {}, "ids": ["1-1-1"]}, [""]),
    ({"reason": "x", "filter": {"age": 1}}, ["/filter/age"]),
    ({"reason": "x", "filter": {}, "limit": 0}, ["/limit"]),
    ({"reason": "x", "filter": {}, "limit": 1001}, ["/limit"]),
    ({"reason": "x", "filter": {}, "cursor": 7}, ["/cursor"]),
    ({"reason": "x", "ids": ["1-1-1"], "cursor": "1-1-1"}, [""]),
    ({"reason": "x", "ids": ["x"]}, ["/ids/0"]),
    ({"reason": "x", "ids": ["1-1-1"] * 1001}, ["/ids"]),
    ({"reason": "", "ids": ["1-1-1"]}, ["/reason"]),
]
PEOPLE: list[tuple[Any, list[str]]] = [
    ({}, ["/name", "/role"]),
    ({"name": "a b", "role": "viewer"}, ["/name"]),
    ({"name": "", "role": "viewer"}, ["/name"]),
    ({"name": "x" * 65, "role": "viewer"}, ["/name"]),
    ({"name": "bo", "role": "root"}, ["/role"]),
    ({"name": 7, "role": None}, ["/name", "/role"]),
    ({"name": "bo\n", "role": "viewer"}, ["/name"]),
]

BAD: dict[str, list[Bad]] = {
    "GET /openapi.json": [("/openapi.json?v=2", None, 422, ["?v"])],
    "POST /commands": bodies("/commands", ({}, ["/type", "/subject", "/payload"])),  # test_bad_requests has the others
    "POST /commands/batch": bodies("/commands/batch", ({}, ["/commands"]), ({"commands": []}, ["/commands"]),
                                   ({"commands": {}}, ["/commands"])),
    "GET /commands": listing(
        "/commands", *TIMES, (f"type={LONG}", "?type"), (f"subject={LONG}", "?subject"), (f"user={LONG}", "?user"),
        (f"by={LONG}", "?by"), (f"node={LONG}", "?node"), ("state=gone", "?state"), ("text=", "?text"),
        (f"text={LONG}", "?text"), ("cursor=IjEgIg", "?cursor"), ("state=done&state=dead", "?state")),
    "GET /commands/{id}": found("/commands/{}", "x", "1-1", "0-0-99999999999999999999", "%00", "99999-1-1", "-1-1-1"),
    "DELETE /commands/{id}": found("/commands/{}", "x", "1-1", "1-1-1", "%00", "99999-1-1"),
    "POST /broadcasts": bodies("/broadcasts", ({}, ["/type", "/scope", "/payload"]),
                               ({"type": "config.reload", "scope": "everyone", "payload": {}}, ["/scope"])),
    "GET /nodes": listing("/nodes"),
    "POST /nodes/{name}/drain": found("/nodes/{}/drain", "node-x", "%00", "a%20b", "x" * 64, "%EB%85%B8"),
    "DELETE /nodes/{name}/drain": found("/nodes/{}/drain", "node-x", "%00", "-a"),
    "GET /shards": listing("/shards"),
    "GET /shards/{shard}/pending": [*listing("/shards/0/pending", ("cursor=IjEi", "?cursor")),
                                    *found("/shards/{}/pending", "8", "-1", "x", "1.0", "%00")],
    "GET /dead": listing("/dead", ("shard=-1", "?shard"), ("shard=1024", "?shard"), ("shard=x", "?shard"),
                         (f"type={LONG}", "?type"), (f"subject={LONG}", "?subject"), ("code=boredom", "?code"),
                         ("requeued=perhaps", "?requeued")),
    "GET /dead/{id}": found("/dead/{}", "x", "1-1-1", "1-999999999999999-1", "%00"),
    "POST /dead/requeue": [
        ("/dead/requeue?dry_run=perhaps", {"reason": "x", "filter": {}}, 422, ["?dry_run"]),
        *bodies("/dead/requeue", *BULK, ({"reason": "x", "filter": {}, "payload": {}}, [""]),
                ({"reason": "x", "ids": ["1-1-1"], "payload": []}, ["/payload"])),
    ],
    "POST /dead/discard": [
        ("/dead/discard?dry_run=2", {"reason": "x", "filter": {}}, 422, ["?dry_run"]),
        *bodies("/dead/discard", *BULK, ({"reason": "x", "ids": ["1-1-1"], "payload": {}}, ["/payload"])),
    ],
    "GET /rooms": listing("/rooms"),
    "GET /rooms/{id}": found("/rooms/{}", "nowhere", "a%20b", "x" * 65, "%00"),
    "GET /rooms/{id}/history": [*listing("/rooms/lobby/history"), *found("/rooms/{}/history", "nowhere", "a%20b")],
    "GET /users/{id}": found("/users/{}", "a%20b", "x" * 65, "%00", "%EC%9C%A0", status=422),
    "GET /sanctions": listing("/sanctions"),
    "GET /alarms": listing("/alarms"),
    "GET /series": [(f"/series?span={span}", None, 422, ["?span"]) for span in ("days", "", "MINUTES")],
    "GET /live": [("/live", None, 422, ["?topics"]), *(
        (f"/live?topics={topics}", None, 422, ["?topics"])
        for topics in ("", "nothing", "commands,", "room:", "room:a%20b", ",".join(["commands"] * 11), "%00")
    )],
    "GET /export": [
        ("/export", None, 422, ["?what"]), ("/export?what=people", None, 422, ["?what"]),
        ("/export?what=dead&format=xml", None, 422, ["?format"]),
        *((f"/export?what=audit&{query}", None, 422, [place]) for query, place in TIMES),
    ],
    "GET /self-check": [("/self-check?now=1", None, 422, ["?now"])],
    "POST /session": bodies("/session", ({}, ["/name", "/password"]), ({"name": "a" * 65, "password": "x"}, ["/name"]),
                            ({"name": "a", "password": "x" * 201}, ["/password"]),
                            ({"name": 7, "password": None}, ["/name", "/password"])),
    "GET /session": [("/session?who=me", None, 422, ["?who"])],
    "DELETE /session": [("/session?everywhere=perhaps", None, 422, ["?everywhere"]), ("/session", None, 409, [])],
    "POST /session/password": [
        *bodies("/session/password", ({}, ["/old", "/new"]), ({"old": "x", "new": "short"}, ["/new"]),
                ({"old": "x", "new": "y" * 201}, ["/new"]), ({"old": "x" * 201, "new": "y" * 20}, ["/old"])),
        ("/session/password", {"old": "x" * 20, "new": "y" * 20}, 409, []),  # a token has no password
    ],
    "GET /operators": listing("/operators"),
    "POST /operators": bodies("/operators", *PEOPLE,
                              ({"name": "bo", "role": "viewer", "password": "short"}, ["/password"])),
    "PATCH /operators/{name}": [
        *bodies("/operators/admin", ({}, [""]), ({"role": None}, [""]), ({"role": "root"}, ["/role"]),
                ({"disabled": "yes"}, ["/disabled"]), ({"password": "short"}, ["/password"]),
                ({"password": "long enough 1", "new_password": True}, [""])),
        ("/operators/nobody", {"role": "viewer"}, 404, []), ("/operators/%00", {"role": "viewer"}, 404, []),
        ("/operators/admin", {"disabled": True}, 409, []),  # nobody would be left
    ],
    "GET /tokens": listing("/tokens"),
    "POST /tokens": bodies("/tokens", *PEOPLE, *(
        ({"name": "bo", "role": "viewer", "expires_in": value}, ["/expires_in"])
        for value in (0, -1, 1.5, "60", 1 << 40)
    )),
    "DELETE /tokens/{id}": found("/tokens/{}", "x", "%00", "x" * 500),
    "GET /audit": listing("/audit", *TIMES, (f"by={LONG}", "?by"), (f"action={LONG}", "?action"),
                          (f"target={LONG}", "?target"), (f"request_id={LONG}", "?request_id")),
    "GET /audit/heads": listing("/audit/heads"),
    "GET /chat-token": [(f"/chat-token{query}", None, 422, ["?user"])
                        for query in ("", "?user=", "?user=a%20b", f"?user={LONG}", "?user=a&user=b")],
}  # fmt: skip

SAME = {"Sec-Fetch-Site": "same-origin"}
FORM = {**SAME, "Content-Type": "application/x-www-form-urlencoded"}
# What a form of the pages refuses: body, headers, status.
FORMS: list[tuple[bytes, dict[str, str], int]] = [
    (b"name=a", {**FORM, "Sec-Fetch-Site": "cross-site"}, 403),
    (b"name=a", {"Content-Type": FORM["Content-Type"], "Origin": "https://evil.example"}, 403),
    (b"{}", {**SAME, "Content-Type": "application/json"}, 415),
    (b"name=a", {**FORM, "Content-Encoding": "gzip"}, 415),
    (b"name=" + b"a" * 20_000, FORM, 413),
    (b"name=a", {**SAME, "Content-Type": f"{FORM['Content-Type']}; charset=klingon"}, 400),
]
PAGES: dict[str, list[tuple[bytes, int]]] = {
    "/login": [(b"", 401), (b"name=%00&password=%ff", 401), (b"name=admin&name=bo&password=x", 401),
               (b"name=" + b"a" * 65 + b"&password=x", 422), (b"\xff\xfe=%zz", 400), (b"a&" * 5000, 413)],
    "/password": [(b"", 422), (b"old=x&new=y&again=z", 422), (b"old=x&new=short&again=short", 422),
                  (b"old=wrong-one-12&new=long+enough+1&again=long+enough+1", 422)],
    "/logout": [(b"everywhere=perhaps", 303)],  # any word there means everywhere
    "/preferences": [(b"", 303), (b"theme=purple&language=xx&next=//evil.example", 303), (b"next=%0d%0aX:y", 303)],
}  # fmt: skip


def settings() -> BackofficeSettings:
    return BackofficeSettings(api_tokens=SecretStr("a:admin:0123456789abcdef"), demo_chat_key=SecretStr(CHAT_KEY))


def test_every_route_and_form_has_its_bad_requests() -> None:
    described = routes(settings())
    assert {f"{route.method} {route.path}" for route in (*described, document_route(described, default))} == set(BAD)
    router = make_app(settings(), BridgeSettings(redis_url=SecretStr("redis://nowhere"))).router
    posts = {route.resource.canonical for route in router.routes() if route.method == "POST" and route.resource}
    assert {path for path in posts if not path.startswith(PREFIX)} == set(PAGES)
    assert all(BAD.values())
    assert sum(map(len, BAD.values())) > 250


def fault(answer: Answer, status: int, places: list[str]) -> str | None:
    """What is wrong with a refusal."""
    if answer.status != status or answer.headers["Content-Type"] != "application/problem+json":
        return f"{answer.status} {answer.body[:300]!r}"
    told = [each["path"] for each in answer.json["errors"]]
    fine = answer.json["status"] == status and answer.json["request_id"] == answer.headers["X-Request-Id"]
    return None if fine and told == places else f"{told} instead of {places}: {answer.body[:300]!r}"


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
async def test_each_bad_request_is_refused_and_its_place_is_named(api: Api, method: str) -> None:
    await api.issue("room.open", "room:lobby", {})
    wrong = {}
    for route, requests in BAD.items():
        for number, (path, body, status, places) in enumerate(requests if route.startswith(f"{method} ") else ()):
            if told := fault(await api.call(method, path, body), status, places):
                wrong[f"{route} #{number} {path[:80]} {str(body)[:80]}"] = told
    assert wrong == {}
    assert (await api.get("//healthz")).status == 200


async def test_every_route_refuses_what_none_takes(api: Api) -> None:
    wrong = {}
    for route in BAD:
        method, path = route.format(**EXAMPLES).split()
        refused = [(await api.call(method, path, headers={"Content-Encoding": "gzip"}), 415)]
        if route != "POST /session":
            refused.append((await api.as_(None).call(method, path), 401))
            refused.append((await api.as_(None).call(method, path, headers={"Authorization": "Bearer \xe4dmin"}), 401))
        if route.split()[0] in ("POST", "PATCH") and not path.endswith("/drain"):
            for data, status in ((b"", 400), (b"{", 400), (b"\xff", 400), (b"[" * 500 + b"]" * 500, 422),
                                 (b'{"a": 10000000000000000000}', 422), (b" " * (9 << 20), 413)):  # fmt: skip
                refused.append((await api.call(method, path, data=data), status))
            for type_ in ("", "text/plain", "application/json; charset=latin-1"):
                typed = await api.call(method, path, data=b"{}", headers={"Content-Type": type_})
                refused.append((typed, 415))
            unknown = await api.call(method, path, {"nonsense": 1})
            assert unknown.status == 422
            assert "/nonsense" in [each["path"] for each in unknown.json["errors"]], route
        else:
            for data, status in ((b'{"nonsense": 1}', 422), (b"[]", 422), (b"null", 422), (b"{", 400),
                                 (b" " * (2 << 20), 413)):  # fmt: skip
                refused.append((await api.call(method, path, data=data), status))
            refused.append((await api.call(method, path, data=b"x", headers={"Content-Type": "text/plain"}), 415))
            bare = (await api.call(method, path)).status
            for nothing in (b"", b"{}"):
                assert (await api.call(method, path, data=nothing)).status == bare, route
        for number, (answer, status) in enumerate(refused):
            if answer.status != status or answer.headers["Content-Type"] != "application/problem+json":
                wrong[f"{route} #{number}"] = f"{answer.status} instead of {status}: {answer.body[:200]!r}"
    assert wrong == {}


BODIES = {"operators.change": b'{"role": "viewer"}'}  # of routes that look something up by a part of their path
LITERAL = (b"%ed%a0%80", b"a%ffb")  # as nobody can decode these, some may look for them as they are
NO_TEXT = (b"%00", b"a%00b", *LITERAL, b"\xed\xa0\x80", b"a\xffb")


async def status_of(api: Api, method: str, target: bytes, body: bytes) -> int:
    """What a request with these very bytes is answered."""
    host, port = re.findall(r"//(.+):(\d+)", api.url)[0]
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"Host: x\r\nAuthorization: Bearer {TOKENS['admin']}\r\nConnection: close\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(method.encode() + b" /api/v1" + target + b" HTTP/1.1\r\n" + f"{head}{kind}".encode() + body)
    _, status, *_ = (await reader.readline()).split()
    writer.close()
    return int(status)


@both_databases
async def test_text_that_no_database_holds_is_refused_wherever_it_is_taken(api: Api, database_url: str) -> None:
    wrong, seen = [], []
    for route in routes(settings()):
        path = re.sub(r"{\w+}", "{}", route.path)
        examples = [EXAMPLES[name] for name in re.findall(r"{(\w+)}", route.path)]
        places = [path.format(*examples[:n], "\0", *examples[n + 1 :]) for n in range(len(examples))]
        fields = route.query.model_fields
        for name in fields:
            others = "".join(f"&{each}=audit" for each, field in fields.items() if field.is_required() and each != name)
            places.append(f"{path.format(*examples)}?{name}=\0{others}")
        body = b"" if route.body is None else BODIES.get(route.action, b"{}")
        for place, odd in itertools.product(places, NO_TEXT):
            status = await status_of(api, route.method, place.encode().replace(b"\0", odd), body)
            seen.append(status)
            if status not in (400, 404, 422) and not (status == 200 and odd in LITERAL):
                wrong.append((route.method, place, odd, status))
    assert wrong == []
    assert seen.count(422) > 100


@asynccontextmanager
async def logged_in(api: Api) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(api.url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        who = {"name": "admin", "password": PASSWORD}
        async with http.post("/login", data=who, headers=SAME, allow_redirects=False) as answer:
            assert answer.status == 303
        yield http


@pytest.mark.parametrize("path", PAGES)
async def test_a_form_of_the_pages_refuses_what_is_wrong(api: Api, path: str) -> None:
    async with logged_in(api) as http:
        for data, headers, status in (*FORMS, *((data, FORM, status) for data, status in PAGES[path])):
            async with http.post(path, data=data, headers=headers, allow_redirects=False) as answer:
                assert answer.status == status, (data[:60], headers)
                assert "evil" not in answer.headers.get("Location", "")
                assert b"Traceback" not in await answer.read()


async def test_a_page_with_bad_parameters_says_so(api: Api) -> None:
    async with logged_in(api) as http:
        for path, status in {
            "/commands?q=colour:red": 422, "/commands?q=since:yesterday": 422, "/commands?cursor=x": 422,
            "/commands/x": 404, "/commands/new?type=%00": 200, "/rooms/%00": 404, "/rooms/nowhere": 404,
            "/rooms?cursor=x": 422, "/users/a%20b": 422, "/sanctions?cursor=x": 422, "/dead?cursor=x": 422,
            "/dead/x": 404, "/shards/99": 404, "/shards/x": 404, "/audit?cursor=x": 422,
            "/login?next=//evil.example": 303, "/nothing": 404,
        }.items():  # fmt: skip
            async with http.get(path, allow_redirects=False) as answer:
                assert answer.status == status, path


async def test_bad_requests_leave_no_memory_behind(api: Api) -> None:
    """Those that were read in full, side by side, and those that broke off."""
    process = psutil.Process()
    big = b'{"type": "' + b"x" * (1_000_000) + b'"}'

    async def flood() -> None:
        for _ in range(4):
            statuses = [a.status for a in await asyncio.gather(*(api.post("/commands", data=big) for _ in range(15)))]
            assert statuses == [422] * 15

    async def broken_off() -> None:
        host, port = re.findall(r"//(.+):(\d+)", api.url)[0]
        for _ in range(100):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"POST /api/v1/commands HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + big[:100_000]
            )
            writer.close()

    await flood()
    before = process.memory_info().rss
    await flood()
    await broken_off()
    await flood()
    assert (await api.get("//healthz")).status == 200
    assert process.memory_info().rss - before < 50 << 20
