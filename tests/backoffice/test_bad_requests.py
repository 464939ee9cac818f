"""Every way to send a request wrongly has its documented answer: a problem document, and never a 5xx."""

from __future__ import annotations

import asyncio
import re
import zlib
from typing import Any

import orjson
import pytest
from multidict import CIMultiDict
from pydantic import BaseModel

from bridge.config import BridgeSettings
from bridge.envelope import MAX_DEPTH
from bridge.registry import Registry
from tests.backoffice.service import TOKENS, Answer, Api, backoffice

GOOD: dict[str, Any] = {"type": "member.mute", "subject": "room:lobby", "payload": {"user": "u7", "seconds": 60}}
MEMBERS = {"type", "title", "status", "detail", "code", "request_id", "errors"}


def changed(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def check_problem(answer: Answer, status: int, code: str, *paths: str) -> None:
    """The answer is this problem, with faults at exactly these paths."""
    assert answer.status == status, answer.body[:500]
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json
    assert problem.keys() >= MEMBERS
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, f"/problems/{code}")
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert [fault["path"] for fault in problem["errors"]] == list(paths)
    assert all(fault["code"] and fault["message"] for fault in problem["errors"])
    assert b"Traceback" not in answer.body


# body, paths of its faults
FIELDS: list[tuple[Any, list[str]]] = [
    ({}, ["/type", "/subject", "/payload"]),
    (without("subject"), ["/subject"]),
    (without("payload"), ["/payload"]),
    ([], [""]),
    ("text", [""]),
    (7, [""]),
    (True, [""]),
    (changed(type=7), ["/type"]),
    (changed(type="mute"), ["/type"]),
    (changed(type="Member.Mute"), ["/type"]),
    (changed(type="member.mute\n"), ["/type"]),
    (changed(type="a." + "b" * 63), ["/type"]),
    (changed(subject="lobby"), ["/subject"]),
    (changed(subject="room:"), ["/subject"]),
    (changed(subject="room:lob by"), ["/subject"]),
    (changed(subject="room:" + "x" * 65), ["/subject"]),
    (changed(subject="room:{lobby}"), ["/subject"]),
    (changed(subject="room:로비"), ["/subject"]),
    (changed(subject="room:lobby\n"), ["/subject"]),
    (changed(subject="user:u7"), ["/subject"]),
    (changed(subject=None), ["/subject"]),
    (changed(payload=None), ["/payload"]),
    (changed(payload=[]), ["/payload"]),
    (changed(payload="{}"), ["/payload"]),
    (changed(payload={}), ["/payload/user"]),
    (changed(payload={"user": 7}), ["/payload/user"]),
    (changed(payload={"user": "u 7"}), ["/payload/user"]),
    (changed(payload={"user": "u7", "seconds": "60"}), ["/payload/seconds"]),
    (changed(payload={"user": "u7", "seconds": 0}), ["/payload/seconds"]),
    (changed(payload={"user": "u7", "seconds": -1}), ["/payload/seconds"]),
    (changed(payload={"user": "u7", "seconds": 1.5}), ["/payload/seconds"]),
    (changed(payload={"user": "u7", "seconds": True}), ["/payload/seconds"]),
    (changed(payload={"user": "u7", "seconds": 315_360_001}), ["/payload/seconds"]),
    (changed(payload={"user": "u7", "reason": "spam"}), ["/payload/reason"]),
    (changed(payload={"user": "u7", "a/b~c": 1}), ["/payload/a~1b~0c"]),
    (changed(reason="x" * 501), ["/reason"]),
    (changed(reason=7), ["/reason"]),
    (changed(expires_in=0), ["/expires_in"]),
    (changed(expires_in=604_801), ["/expires_in"]),
    (changed(expires_in="60"), ["/expires_in"]),
    (changed(expires_in=1e3), ["/expires_in"]),
    (changed(deliver_at="2099-01-01T00:00:00Z"), ["/deliver_at"]),
    (changed(deliver_at="2026-01-01T00:00:00"), ["/deliver_at"]),
    (changed(deliver_at=7), ["/deliver_at"]),
    (changed(deliver_at="tomorrow"), ["/deliver_at"]),
    (changed(by="root"), ["/by"]),
    (changed(id="1-1-1"), ["/id"]),
    (
        changed(subject="x", reason=1, payload={"user": "", "y": 1}),
        ["/subject", "/reason", "/payload/user", "/payload/y"],
    ),
    (changed(type="notice.post", payload={"text": ""}), ["/payload/text"]),
    (changed(type="notice.post", payload={"text": "x" * 1001}), ["/payload/text"]),
    (changed(type="notice.post", payload={"text": "x", "level": "loud"}), ["/payload/level"]),
    (changed(type="message.delete", payload={}), ["/payload"]),
    (changed(type="message.delete", payload={"message_ids": ["x y"]}), ["/payload/message_ids/0"]),
    (changed(payload={"user": "u7", "x": nested(MAX_DEPTH + 1)}), [""]),
    (changed(payload={"user": "u7", "seconds": 1 << 63}), ["/payload/seconds"]),
]


@pytest.mark.parametrize(
    ("body", "paths"), FIELDS, ids=lambda value: str(value)[:60] if isinstance(value, list) else ""
)
async def test_a_command_that_breaks_rules_is_told_every_fault(api: Api, body: Any, paths: list[str]) -> None:
    check_problem(await api.post("/commands", body), 422, "invalid", *paths)


async def test_an_unknown_type_has_its_own_code_and_the_other_faults_too(api: Api) -> None:
    answer = await api.post("/commands", changed(type="member.tickle", reason=1))
    check_problem(answer, 422, "unknown_type", "/reason", "/type")


RAW: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 400, "malformed"),
    "blank": (b" \r\n", 400, "malformed"),
    "not JSON": (b"type=member.mute", 400, "malformed"),
    "cut off": (orjson.dumps(GOOD)[:-3], 400, "malformed"),
    "two values": (orjson.dumps(GOOD) * 2, 400, "malformed"),
    "trailing comma": (b'{"type": "member.mute",}', 400, "malformed"),
    "comment": (b'{} // "type"', 400, "malformed"),
    "NaN": (b'{"type": NaN}', 400, "malformed"),
    "Infinity": (b'{"type": -Infinity}', 400, "malformed"),
    "beyond a double": (b'{"type": 1e400}', 400, "malformed"),
    "invalid UTF-8": (b'{"type": "\xff\xfe"}', 400, "malformed"),
    "overlong UTF-8": (b'{"type": "\xc0\xaf"}', 400, "malformed"),
    "UTF-16": (orjson.dumps(GOOD).decode().encode("utf-16"), 400, "malformed"),
    "byte order mark": (b"\xef\xbb\xbf" + orjson.dumps(GOOD), 400, "malformed"),
    "lone surrogate": (rb'{"type": "\ud800"}', 400, "malformed"),
    "control character": (b'{"type": "a\nb"}', 400, "malformed"),
    "2000 levels": (b"[" * 2000 + b"]" * 2000, 400, "malformed"),
    "100 levels": (b"[" * 100 + b"]" * 100, 422, "invalid"),
    "integer of 20 digits": (b'{"type": 10000000000000000000}', 422, "invalid"),
    "negative integer of 20 digits": (b'{"payload": {"a": -10000000000000000000}}', 422, "invalid"),
    "over a megabyte": (b" " * (1 << 20) + b"{}", 413, "too_large"),
}


@pytest.mark.parametrize("name", RAW)
async def test_a_body_that_is_no_command_is_refused(api: Api, name: str) -> None:
    data, status, code = RAW[name]
    answer = await api.post("/commands", data=data)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_of_a_key_given_twice_the_last_counts(api: Api) -> None:
    twice = b'{"type": "no.such", "type": "member.mute", "subject": "room:lobby", "payload": {"user": "u7"}}'
    answer = await api.post("/commands", data=twice)
    assert (answer.status, answer.json["type"]) == (202, "member.mute")


HEADERS: dict[str, tuple[dict[str, str], int, str, list[str]]] = {
    "no content type": ({"Content-Type": ""}, 415, "unsupported_media_type", []),
    "form": ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type", []),
    "text": ({"Content-Type": "text/plain"}, 415, "unsupported_media_type", []),
    "other charset": ({"Content-Type": "application/json; charset=latin-1"}, 415, "unsupported_media_type", []),
    "gzip": ({"Content-Encoding": "gzip"}, 415, "unsupported_media_type", []),
    "identity": ({"Content-Encoding": "identity"}, 415, "unsupported_media_type", []),
    "unknown encoding": ({"Content-Encoding": "zz"}, 415, "unsupported_media_type", []),
    "empty key": ({"Idempotency-Key": ""}, 422, "invalid", [":Idempotency-Key"]),
    "key with a blank": ({"Idempotency-Key": "a b"}, 422, "invalid", [":Idempotency-Key"]),
    "key of 201": ({"Idempotency-Key": "x" * 201}, 422, "invalid", [":Idempotency-Key"]),
    "key beyond ASCII": ({"Idempotency-Key": "schlüssel"}, 422, "invalid", [":Idempotency-Key"]),
    "no token": ({"Authorization": ""}, 401, "unauthorized", []),
    "other scheme": ({"Authorization": f"Basic {TOKENS['admin']}"}, 401, "unauthorized", []),
    "no scheme": ({"Authorization": TOKENS["admin"]}, 401, "unauthorized", []),
    "unknown token": ({"Authorization": "Bearer admin-token-0123456788"}, 401, "unauthorized", []),
    "token beyond ASCII": ({"Authorization": "Bearer ädmin"}, 401, "unauthorized", []),
    "other expectation": ({"Expect": "the unexpected"}, 417, "expectation_failed", []),
}


@pytest.mark.parametrize("name", HEADERS)
async def test_a_bad_header_is_refused(api: Api, name: str) -> None:
    headers, status, code, paths = HEADERS[name]
    answer = await api.post("/commands", GOOD, headers=headers)
    check_problem(answer, status, code, *paths)
    assert (answer.headers.get("WWW-Authenticate") == "Bearer") == (status == 401)


async def test_faults_are_told_without_words_of_python(api: Api) -> None:
    async def told(path: str, body: Any) -> str:
        return str((await api.post(path, body)).json)

    delete = {"type": "message.delete", "subject": "room:lobby", "payload": {}}
    texts = [await told("/commands", body) for body in (7, delete, changed(payload=[]))]
    texts += [
        await told("/commands/batch", {"commands": [7]}),
        await told("/dead/requeue", {"filter": 7, "reason": "x"}),
    ]
    for text in texts:
        assert "Value error" not in text
        assert "instance of" not in text
        assert "dictionary" not in text


async def test_two_idempotency_keys_are_refused(api: Api) -> None:
    headers = CIMultiDict([("Idempotency-Key", "a"), ("Idempotency-Key", "a")])
    check_problem(await api.post("/commands", GOOD, headers=headers), 422, "invalid", ":Idempotency-Key")
    answer = await api.post("/commands", changed(reason=1), headers=headers)
    check_problem(answer, 422, "invalid", "/reason", ":Idempotency-Key")


async def test_faults_of_query_header_and_body_are_told_together(api: Api) -> None:
    answer = await api.post("/commands?wait=31&verbose=1", changed(reason=1), headers={"Idempotency-Key": "a b"})
    check_problem(answer, 422, "invalid", "?wait", "?verbose", "/reason", ":Idempotency-Key")
    answer = await api.post("/commands", changed(payload={}), headers={"Idempotency-Key": "a b"})
    check_problem(answer, 422, "invalid", ":Idempotency-Key", "/payload/user")


QUERIES: list[tuple[str, list[str]]] = [
    ("/commands?wait=-1", ["?wait"]),
    ("/commands?wait=30.1", ["?wait"]),
    ("/commands?wait=nan", ["?wait"]),
    ("/commands?wait=inf", ["?wait"]),
    ("/commands?wait=", ["?wait"]),
    ("/commands?wait=1&wait=2", ["?wait"]),
    ("/commands?Wait=1", ["?Wait"]),
]
LISTS = ("/nodes", "/shards", "/dead", "/rooms", "/sanctions", "/shards/0/pending", "/rooms/lobby/history")
LIST_QUERIES = {"limit=0": "limit", "limit=501": "limit", "limit=ten": "limit", "limit=1.5": "limit", "limit=": "limit",
                "limit=1&limit=2": "limit", "page=2": "page", "%00=1": "\0"}  # fmt: skip
CURSORS = ("x", "%00", "AAAA", "bnVsbA", "W10", "e30", "!!!", "a" * 1001, "999999999999999999999")


@pytest.mark.parametrize(("path", "paths"), QUERIES, ids=[path for path, _ in QUERIES])
async def test_a_bad_parameter_is_refused(api: Api, path: str, paths: list[str]) -> None:
    check_problem(await api.post(path, GOOD), 422, "invalid", *paths)


@pytest.mark.parametrize("path", LISTS)
async def test_every_list_refuses_bad_parameters(api: Api, path: str) -> None:
    await api.issue("room.open", "room:lobby", {})
    for query, name in LIST_QUERIES.items():
        check_problem(await api.get(f"{path}?{query}"), 422, "invalid", f"?{name}")
    for cursor in CURSORS:
        check_problem(await api.get(f"{path}?cursor={cursor}"), 422, "invalid", "?cursor")


PATHS: dict[str, int] = {
    "//nothing": 404,
    "//api/v1": 404,
    "//api/v1/": 404,
    "//api/v2/commands": 404,
    "//api/v1/commands/": 404,
    "//api/v1//commands/batch": 404,
    "//api/v1/COMMANDS": 404,
    "//%ff%fe": 404,
    "//" + "a" * 4000: 404,
    "/nodes/%00": 404,
    "/shards/8/pending": 404,
    "/shards/-1/pending": 404,
    "/shards/x/pending": 404,
    "/shards/٣/pending": 404,
    "/shards/00000/pending": 404,
    "/dead/1-1-1": 404,
    "/dead/x": 404,
    "/dead/1-999999999999999-1": 404,
    "/commands/1-999999999999999-1": 404,
    "/rooms/a%20b": 404,
    "/rooms/nowhere": 404,
    "/rooms/nowhere/history": 404,
    "/users/a%20b": 422,
    "/users/" + "x" * 65: 422,
    "/chat-token": 422,
    "/chat-token?user=a%20b": 422,
    "/dead?shard=-1": 422,
    "/dead?code=boredom": 422,
    "/dead?requeued=perhaps": 422,
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
async def test_a_bad_path_is_refused(api: Api, path: str) -> None:
    answer = await api.get(path)
    assert answer.status == PATHS[path]
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/commands", "GET, HEAD, POST"),
        ("PUT", "/commands/1-1-1", "DELETE, GET, HEAD"),
        ("PATCH", "/nodes/a/drain", "DELETE, POST"),
        ("POST", "/rooms", "GET, HEAD"),
        ("DELETE", "//healthz", "GET, HEAD"),
        ("TRACE", "/nodes", "GET, HEAD"),
        ("OPTIONS", "/nodes", "GET, HEAD"),
    ],
)
async def test_another_method_is_told_those_that_are_there(api: Api, method: str, path: str, allowed: str) -> None:
    answer = await api.call(method, path)
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == allowed


BULK: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["/reason"]),
    ({"reason": "x"}, [""]),
    ({"ids": ["1-1-1"], "filter": {}, "reason": "x"}, [""]),
    ({"ids": [], "reason": "x"}, ["/ids"]),
    ({"ids": ["x"], "reason": "x"}, ["/ids/0"]),
    ({"ids": ["1-1-1", "1-1-99999999999999999999"], "reason": "x"}, ["/ids/1"]),
    ({"ids": ["1-999999999999999-1"], "reason": "x"}, ["/ids/0"]),
    ({"ids": ["٣-1-1"], "reason": "x"}, ["/ids/0"]),
    ({"ids": "1-1-1", "reason": "x"}, ["/ids"]),
    ({"ids": ["1-1-1"] * 1001, "reason": "x"}, ["/ids"]),
    ({"filter": {"age": 1}, "reason": "x"}, ["/filter/age"]),
    ({"filter": {"shard": "1"}, "reason": "x"}, ["/filter/shard"]),
    ({"ids": ["1-1-1"], "reason": ""}, ["/reason"]),
    ({"ids": ["1-1-1"], "reason": "x" * 501}, ["/reason"]),
    ({"ids": ["1-1-1", "1-1-2"], "reason": "x", "payload": {}}, [""]),
    ({"filter": {}, "reason": "x", "payload": {}}, [""]),
]


@pytest.mark.parametrize(("body", "paths"), BULK, ids=lambda value: str(value)[:40])
async def test_a_bad_requeue_is_refused(api: Api, body: dict[str, Any], paths: list[str]) -> None:
    check_problem(await api.post("/dead/requeue", body), 422, "invalid", *paths)


BROADCASTS: list[tuple[dict[str, Any], str, list[str]]] = [
    ({}, "invalid", ["/type", "/scope", "/payload"]),
    ({"type": "notice.flash", "scope": "user:u7", "payload": {"text": "x"}}, "invalid", ["/scope"]),
    ({"type": "notice.flash", "scope": "room:", "payload": {}}, "invalid", ["/scope", "/payload/text"]),
    ({"type": "notice.shout", "scope": "all", "payload": {}}, "unknown_type", ["/type"]),
    ({"type": "member.mute", "scope": "all", "payload": {}}, "unknown_type", ["/type"]),
    ({"type": "cache.drop", "scope": "all", "payload": {"what": "all"}}, "invalid", ["/payload/what"]),
    ({"type": "config.reload", "scope": "all", "payload": {"now": True}}, "invalid", ["/payload/now"]),
]


@pytest.mark.parametrize(("body", "code", "paths"), BROADCASTS, ids=lambda value: str(value)[:40])
async def test_a_bad_broadcast_is_refused(api: Api, body: dict[str, Any], code: str, paths: list[str]) -> None:
    check_problem(await api.post("/broadcasts", body), 422, code, *paths)


async def test_a_batch_over_its_limits_is_refused_whole(api: Api) -> None:
    check_problem(await api.post("/commands/batch", {"commands": []}), 422, "invalid", "/commands")
    check_problem(await api.post("/commands/batch", {"commands": [GOOD] * 1001}), 422, "invalid", "/commands")
    check_problem(await api.post("/commands/batch", {"commands": GOOD}), 422, "invalid", "/commands")
    check_problem(await api.post("/commands/batch", data=b" " * (8 << 20) + b"{}"), 413, "too_large")
    answer = await api.post("/commands/batch", {"commands": [GOOD]}, headers={"Idempotency-Key": "k"})
    check_problem(answer, 422, "invalid", ":Idempotency-Key")


async def test_an_entry_over_64_kib_is_too_large_alone_and_in_a_batch(bridge_settings: BridgeSettings) -> None:
    registry = Registry()

    @registry.command("test.note", subject="user")
    class Note(BaseModel):
        text: str

    def note(size: int) -> dict[str, Any]:
        return {"type": "test.note", "subject": "user:u7", "payload": {"text": "x" * size}}

    async with backoffice(bridge_settings, registry=registry) as api:
        assert (await api.post("/commands", note(65_000))).status == 202
        check_problem(await api.post("/commands", note(65_536)), 413, "too_large", "/payload")
        batch = {"commands": [note(65_536), note(1)]}
        refused, accepted = (await api.post("/commands/batch", batch)).json["results"]
        assert (refused["status"], refused["problem"]["errors"][0]["path"]) == (413, "/commands/0/payload")
        assert accepted["status"] == 202


async def test_chunked_bodies_are_read_and_limited(api: Api) -> None:
    async def chunks(body: bytes, size: int = 1000) -> Any:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    assert (await api.post("/commands", data=chunks(orjson.dumps(GOOD), 10))).status == 202
    refused = await api.post("/commands", data=chunks(b" " * (1 << 20) + b"{}", 1 << 16))
    assert (refused.status, refused.json["code"]) == (413, "too_large")


async def test_a_compressed_body_is_not_unpacked(api: Api) -> None:
    packed = zlib.compress(orjson.dumps(GOOD))
    for data in (packed, b"\x1f\x8bbroken"):
        answer = await api.post("/commands", data=data, headers={"Content-Encoding": "deflate"})
        check_problem(answer, 415, "unsupported_media_type")


STRANGE = ("%ff", "%ed%a0%80", "%00", "%0d%0aX:y", "%F0%9F%98%80", "%", "%zz", "{0}", "..", "a;b", "x" * 3000)


@pytest.mark.parametrize("part", STRANGE, ids=lambda part: part[:12])
async def test_strange_characters_anywhere_in_a_path_are_answered(api: Api, part: str) -> None:
    head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['admin']}\r\nConnection: close\r\n\r\n"
    for target in (
        "commands/*",
        "nodes/*/drain",
        "rooms/*",
        "rooms/*/history",
        "users/*",
        "shards/*/pending",
        "*",
        "dead/*",
        "rooms?limit=*",
        "rooms?*=1",
        "rooms?cursor=*",
        "dead?type=*",
        "chat-token?user=*",
    ):
        method = "POST" if "drain" in target else "GET"
        answer = await wire(api, f"{method} /api/v1/{target.replace('*', part)} {head}".encode())
        status = int(answer.split()[1])
        assert 200 <= status < 500, answer
        assert b"X:y" not in answer.partition(b"\r\n\r\n")[0].replace(b"x-", b"")


async def wire(api: Api, data: bytes) -> bytes:
    """What comes back for these bytes, until the connection ends or the answer is whole."""
    host, port = api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = re.findall(rb"(?i)content-length: (\d+)", head)
        return head + (await reader.readexactly(int(lengths[0])) if lengths else b"")
    finally:
        writer.close()


# What no HTTP client sends.
WIRE: dict[str, tuple[bytes, int]] = {
    "bytes in the path": (b"GET /api/v1/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "bytes in a token": (b"GET /api/v1/nodes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n", 401),
    "bytes in the type": (
        b"POST /api/v1/commands HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Type: \xff\xfe\r\n"
        b"Content-Length: 2\r\n\r\n{}" % TOKENS["admin"].encode(),
        415,
    ),
    "bytes in the id": (b"GET /nothing HTTP/1.1\r\nHost: x\r\nX-Request-Id: \xff\xfe\r\n\r\n", 404),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
    "HTTP/7.3": (b"GET / HTTP/7.3\r\nHost: x\r\n\r\n", 400),
    "path of 9,000 bytes": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "query of 9,000 bytes": (b"GET /?" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "header of 9,000 bytes": (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 400),
    "200 headers": (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n", 400),
    "header without colon": (b"GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", 400),
    "bad length": (b"POST /api/v1/commands HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n", 400),
    "negative length": (b"POST /api/v1/commands HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    "length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "broken chunk": (
        b"POST /api/v1/commands HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n" % TOKENS["admin"].encode(),
        400,
    ),
    "declared over a megabyte": (
        b"POST /api/v1/commands HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1048577\r\n\r\n" % TOKENS["admin"].encode(),
        413,
    ),
}


@pytest.mark.parametrize("name", WIRE)
async def test_what_is_no_good_http_is_answered_with_a_problem(api: Api, name: str) -> None:
    data, status = WIRE[name]
    answer = await wire(api, data)
    assert answer.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status))
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"application/problem+json" in head
    assert b"x-request-id" in head
    assert (await api.get("//healthz")).status == 200
