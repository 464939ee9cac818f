"""The admin pages as they are sent: who sees what, and what travels with them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from html import unescape
from urllib.parse import urlencode

import aiohttp
import pytest
from yarl import URL

from backoffice.alarms import RULES
from backoffice.passwords import MAX_CHARS, MIN_CHARS
from backoffice.ui.assets import BASE, STATIC
from backoffice.ui.commands import parse
from backoffice.ui.overview import PLACES
from backoffice.ui.site import NAVIGATION
from bridge.client import Bridge
from tests.backoffice.service import PASSWORD, TOKENS, Api
from tests.servers import Server
from tests.waiting import until

SAME = {"Sec-Fetch-Site": "same-origin"}
HOSTILE = [
    "<script>hacked=1</script>", "<img src=x onerror=hacked=1>", "'\"><svg/onload=hacked=1>",
    "javascript:hacked=1", "{{7*7}}", "</title><script>hacked=1</script>",
]  # fmt: skip


class Visitor:
    """A browser without scripts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = aiohttp.ClientSession(url, cookie_jar=aiohttp.CookieJar(unsafe=True))

    async def get(self, path: str, **options: object) -> tuple[int, str]:
        async with self.http.get(path, allow_redirects=False, **options) as response:  # type: ignore[arg-type]
            return response.status, response.headers.get("Location") or await response.text()

    async def submit(self, path: str, *, headers: dict[str, str] | None = None, **fields: str) -> tuple[int, str]:
        async with self.http.post(path, data=fields, headers=headers or SAME, allow_redirects=False) as response:
            return response.status, response.headers.get("Location") or await response.text()

    async def log_in(self, name: str = "admin", password: str = PASSWORD, next: str = "/") -> tuple[int, str]:
        return await self.submit("/login", name=name, password=password, next=next)


@pytest.fixture
async def visitor(api: Api) -> AsyncIterator[Visitor]:
    visitor = Visitor(api.url)
    yield visitor
    await visitor.http.close()


async def test_every_page_of_the_navigation_is_there(api: Api, node: Bridge, visitor: Visitor) -> None:
    await api.issue("room.open", "room:lobby", {"title": "Lobby"}, wait=10)
    muted = await api.issue("member.mute", "room:lobby", {"user": "bo", "seconds": 60}, reason="spam", wait=10)
    await visitor.log_in()
    paths = [place.path for place in NAVIGATION]
    paths += ["/rooms/lobby", "/users/bo", f"/commands/{muted.json['id']}", "/shards/3", "/password", "/commands/new"]
    for path in [*paths, "/commands/new?type=message.delete", "/commands?q=state:done"]:
        status, page = await visitor.get(path)
        assert (status, path) == (200, path)
        for target in re.findall(r'href="(/[^"]*)"', page):
            assert target.startswith("/assets/") or (await visitor.get(unescape(target)))[0] == 200, (path, target)


HTML = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/nowhere", "/commands/a/b", "/problems/none", "/assets/none.js"])
async def test_a_browser_that_asks_for_a_page_that_is_not_there_gets_a_page(visitor: Visitor, path: str) -> None:
    assert await visitor.get(path, headers=HTML) == (303, f"/login?{urlencode({'next': path})}")
    await visitor.log_in()
    status, page = await visitor.get(path, headers=HTML)
    assert (status, "there is no such page" in page, 'href="/dead"' in page) == (404, True, True)


async def test_a_page_that_is_not_there_leads_to_no_other_site(visitor: Visitor) -> None:
    await visitor.log_in()
    async with visitor.http.get(URL(f"{visitor.url}//evil.example/login?a=1", encoded=True), headers=HTML) as response:
        page = await response.text()
    assert (response.status, "there is no such page" in page) == (404, True)
    assert "evil.example" not in page


@pytest.mark.parametrize(("path", "headers"), [("/nowhere", {"Accept": "*/*"}), ("/api/v1/nowhere", HTML)])
async def test_a_program_that_asks_for_what_is_not_there_gets_a_problem(
    visitor: Visitor, path: str, headers: dict[str, str]
) -> None:
    status, said = await visitor.get(path, headers=headers)
    assert (status, json.loads(said)["code"]) == (404, "not_found")


async def test_who_is_not_logged_in_is_sent_to_log_in_and_back(visitor: Visitor) -> None:
    assert await visitor.get("/commands?q=by:ann") == (303, "/login?next=%2Fcommands%3Fq%3Dby%3Aann")
    assert await visitor.log_in(next="/commands?q=by:ann") == (303, "/commands?q=by:ann")
    assert await visitor.get("/login") == (303, "/")


@pytest.mark.parametrize("next", ["//evil.example", "/\\evil.example", "https://evil.example", "", "/\r\nX: 1"])
async def test_nobody_is_sent_to_another_site(visitor: Visitor, next: str) -> None:
    assert await visitor.log_in(next=next) == (303, "/")


async def test_a_form_of_another_site_does_nothing(visitor: Visitor) -> None:
    evil = {"Sec-Fetch-Site": "cross-site"}
    assert (await visitor.submit("/login", headers=evil, name="admin", password=PASSWORD))[0] == 403
    await visitor.log_in()
    for path in ("/logout", "/password", "/preferences"):
        assert (await visitor.submit(path, headers=evil))[0] == 403
    assert (await visitor.get("/"))[0] == 200


async def test_a_made_up_password_is_changed_before_anything_else(api: Api, visitor: Visitor) -> None:
    made = await api.post("/operators", {"name": "bo", "role": "viewer"})
    await visitor.log_in("bo", made.json["password"])
    assert await visitor.get("/commands") == (303, "/password")
    assert 'data-topics=""' in (await visitor.get("/password"))[1]  # it would be refused, again and again
    new = "a much better password"
    status, page = await visitor.submit("/password", old=made.json["password"], new=new, again="another one")
    assert (status, "the two are not the same" in page) == (422, True)
    status, where = await visitor.submit("/password", old=made.json["password"], new=new, again=new)
    assert (status, where) == (303, "/login?changed=1")
    await visitor.log_in("bo", new)
    assert (await visitor.get("/commands"))[0] == 200


async def test_the_form_takes_the_passwords_that_the_api_takes(visitor: Visitor) -> None:
    await visitor.log_in()
    assert f'minlength="{MIN_CHARS}" maxlength="{MAX_CHARS}"' in (await visitor.get("/password"))[1]
    assert await visitor.submit("/password", old=PASSWORD, new=(new := "n" * MIN_CHARS), again=new) == (
        303,
        "/login?changed=1",
    )


async def test_a_new_password_is_made_up_for_others_only(api: Api, visitor: Visitor) -> None:
    await api.post("/operators", {"name": "bo", "role": "viewer"})
    await visitor.log_in()
    acts = [json.loads(unescape(act)) for act in re.findall('data-act="(.*?)"', (await visitor.get("/access"))[1])]
    assert {act["path"].rpartition("/")[2] for act in acts if act["method"] == "PATCH"} == {"admin", "bo"}
    assert [act["path"] for act in acts if "new_password" in act["body"]] == ["/api/v1/operators/bo"]


async def test_a_viewer_sees_why_buttons_are_off_and_no_access_page(api: Api, node: Bridge, visitor: Visitor) -> None:
    await api.issue("room.open", "room:lobby", {}, wait=10)
    await api.post("/operators", {"name": "vi", "role": "viewer", "password": PASSWORD})
    await visitor.log_in("vi")
    await visitor.submit("/password", old=PASSWORD, new=PASSWORD + "!", again=PASSWORD + "!")
    await visitor.log_in("vi", PASSWORD + "!")
    page = (await visitor.get("/rooms/lobby"))[1]
    assert "This takes the role operator; yours is viewer." in page
    assert "data-act=" not in page
    assert (await visitor.get("/access"))[0] == 403
    [entry] = (await api.get("/audit?by=vi&action=pages")).json["items"]
    assert (entry["target"], entry["result"]) == ("/access", "refused forbidden")
    assert 'href="/access"' not in page


async def test_rooms_and_users_that_are_called_like_folders_have_their_pages(
    api: Api, node: Bridge, visitor: Visitor
) -> None:
    await api.issue("room.open", "room:.", {"title": "Dot"}, wait=10)
    muted = await api.issue("member.mute", "room:.", {"user": ".."}, wait=10)
    await visitor.log_in()
    for path, link, shown in (("/rooms", "/rooms?id=.", "Dot"), ("/users", "/users?id=..", "user:..")):
        assert f'href="{link}"' in (await visitor.get(path))[1]
        assert f'href="{link}"' in (await visitor.get(f"/commands/{muted.json['id']}"))[1]
        status, page = await visitor.get(link)
        assert status == 200
        assert shown in page
    assert await visitor.get("/users?id=user:bo") == (303, "/users/bo")
    assert await visitor.get("/rooms?id=lobby") == (303, "/rooms/lobby")


async def test_what_people_wrote_is_never_markup(api: Api, node: Bridge, visitor: Visitor) -> None:
    await api.issue("room.open", "room:lobby", {"title": HOSTILE[5]}, reason=HOSTILE[0], wait=10)
    ids = [(await api.issue("notice.post", "room:lobby", {"text": text}, reason=text, wait=10)).json["id"]
           for text in HOSTILE]  # fmt: skip
    await visitor.log_in()
    for path in ("/commands", "/rooms/lobby", "/rooms", "/audit", f"/commands/{ids[0]}",
                 f"/commands?q={HOSTILE[1]}", f"/commands/new?type=notice.post&text={HOSTILE[2]}",
                 f"/login?next={HOSTILE[2]}", f"/audit?by={HOSTILE[2]}", f"/dead?type={HOSTILE[0]}"):  # fmt: skip
        page = (await visitor.get(path))[1]
        for text in HOSTILE:
            if "<" in text:
                assert text not in page, path
        assert "<script>hacked" not in page
        assert not re.search(r'(?:href|src)="javascript:', page)


async def test_pages_tell_browsers_to_run_nothing_from_elsewhere(visitor: Visitor) -> None:
    await visitor.log_in()
    async with visitor.http.get("/") as page:
        policy = page.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
        assert "frame-ancestors 'none'" in policy
        text = await page.text()
    assert not re.search(r"<script(?![^>]*(?:src=|application/json))", text)
    assert not re.search(r"\s(?:on\w+|style)=", text)


async def test_assets_are_kept_by_browsers_and_change_their_address(visitor: Visitor) -> None:
    async with visitor.http.get(f"{BASE}/app.js") as script:
        assert (script.status, script.headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
        assert script.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    for path in ("/assets/0123456789abcdef/app.js", f"{BASE}/nothing.js", f"{BASE}/%2e%2e/site.py"):
        assert (await visitor.get(path))[0] == 404


async def test_what_the_api_says_in_english_is_said_in_korean_too(visitor: Visitor, server: Server) -> None:
    korean = {"Accept-Language": "ko"}
    await visitor.log_in()

    async def alarm() -> bool:
        return "노드가 하나도 없습니다" in (await visitor.get("/", headers=korean))[1]

    await until(alarm, what="an alarm in Korean")
    assert "그런 것은 없습니다" in (await visitor.get("/commands/1-1-1", headers=korean))[1]
    assert "알 수 없는 검색 조건입니다" not in (await visitor.get("/commands?q=typ:x"))[1]
    assert "알 수 없는 검색 조건입니다" in (await visitor.get("/commands?q=typ:x", headers=korean))[1]

    async def finding() -> str | None:
        page = (await visitor.get("/system", headers=korean))[1]
        return page if "appendfsync를 everysec 또는 always로 설정하세요." in page else None

    await server.client().config_set("appendfsync", "no")
    try:
        page = await until(finding, 60, what="a finding in Korean")
    finally:
        await server.client().config_set("appendfsync", "always")
    said = re.search(r'id="words">(.*?)</script>', page)
    assert said is not None
    assert json.loads(said[1])["fault:missing"] == "꼭 필요한 값입니다."


async def test_settings_are_shown_without_their_secrets(visitor: Visitor) -> None:
    await visitor.log_in()
    page = (await visitor.get("/system"))[1]
    assert "BRIDGE_SHARDS" in page
    for secret in (*TOKENS.values(), PASSWORD):
        assert secret not in page


def test_every_alarm_leads_to_where_one_acts() -> None:
    assert {rule.code for rule in RULES} == set(PLACES)
    assert {path for path, _ in PLACES.values()} <= {place.path for place in NAVIGATION}


def test_a_search_is_read_as_its_qualifiers_and_words() -> None:
    text = 'type:member.mute subject:room:lobby by:ann "free gold" now'
    assert parse(text) == {"type": "member.mute", "subject": "room:lobby", "by": "ann", "text": "free gold now"}


async def test_an_unknown_qualifier_is_named_and_nothing_is_lost(visitor: Visitor) -> None:
    await visitor.log_in()
    status, page = await visitor.get("/commands?q=typ:member.mute")
    assert status == 422
    assert "typ: is none of type:, subject:" in page
    assert 'value="typ:member.mute"' in page


def test_what_others_wrote_is_as_they_published_it() -> None:
    for entry in json.loads((STATIC / "vendor" / "vendored.json").read_text()):
        data = (STATIC / "vendor" / entry["file"]).read_bytes()
        assert sha256(data).hexdigest() == entry["sha256"], entry["file"]
        assert (STATIC / "vendor" / entry["licence_file"]).exists()
    known = {entry["file"] for entry in json.loads((STATIC / "vendor" / "vendored.json").read_text())}
    assert {path.name for path in (STATIC / "vendor").glob("*.[jc]s*")} == known | {"vendored.json"}


async def test_an_id_that_is_none_is_a_fault_of_the_search(visitor: Visitor) -> None:
    await visitor.log_in()
    assert await visitor.get("/commands?q=id:1-2-3") == (303, "/commands/1-2-3")
    status, page = await visitor.get("/commands?q=id:foo")
    assert (status, "a command&#39;s id looks like" in page) == (422, True)


async def test_operators_and_tokens_are_shown_page_by_page(
    api: Api, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backoffice.ui.people.SHOWN", 1)
    for name in ("bo", "cy"):
        assert (await api.post("/operators", {"name": name, "role": "viewer"})).status == 201
        assert (await api.post("/tokens", {"name": f"shop-{name}", "role": "viewer"})).status == 201
    await visitor.log_in()
    first = (await visitor.get("/access"))[1]
    operators, tokens = (unescape(address) for address in re.findall(r'rel="next" href="([^"]+)"', first))
    assert re.findall(r'id="o-(\w+)"', first + (await visitor.get(f"/access{operators}"))[1]) == ["admin", "bo"]
    shown = re.findall(r'<th scope="row">(shop-\w+)', first + (await visitor.get(f"/access{tokens}"))[1])
    assert sorted(shown) == ["shop-bo", "shop-cy"]


async def test_what_is_in_hand_is_shown_page_by_page(
    api: Api, server: Server, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backoffice.ui.shards.PENDING", 2)
    entry = {"v": "1", "type": "user.kick", "subject": "user:u1", "payload": "{}", "by": "ann", "at": "1"}
    redis, stream = server.client(), "chat:{3}:commands"
    await redis.xgroup_create(stream, "chatservers", "0", mkstream=True)
    for _ in range(3):
        await redis.xadd(stream, entry)  # type: ignore[arg-type]
    await redis.xreadgroup("chatservers", "node-x", {stream: ">"})
    await visitor.log_in()
    first = (await visitor.get("/shards/3"))[1]
    further = re.search(r'rel="next" href="([^"]+)"', first)
    assert further is not None
    second = (await visitor.get(f"/shards/3{unescape(further[1])}"))[1]
    assert (first.count('id="p-'), second.count('id="p-'), 'rel="next"' in second) == (2, 1, False)
