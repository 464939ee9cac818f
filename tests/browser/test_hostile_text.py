"""What people wrote is text: a hundred ways to have a browser run it, stored wherever somebody else can write."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import itertools
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from playwright.async_api import Error, Page, expect
from pydantic import BaseModel

from backoffice.ui import audit_chain, commands, dead_letters, frame, room
from bridge.effects import Effects
from bridge.envelope import Command
from bridge.errors import Rejected
from bridge.registry import default
from tests.backoffice.service import Api
from tests.browser.desk import Desk, Sit
from tests.browser.payloads import BYTES, PAYLOADS
from tests.chatserver.client import signed_in
from tests.chatserver.conftest import Chat, RunningNode
from tests.servers import Server
from tests.waiting import until

expect.set_options(timeout=30_000)  # the machine may be busy with other tests
NAMES = tuple(text[:64] for text in PAYLOADS)
TITLES = ("</title><script>hacked()</script>", '"><img src=x onerror=hacked()>')
REASONS = tuple(text.replace("\x01", "") for text in PAYLOADS)  # have no control characters
EVERYTHING = "\n".join(PAYLOADS)
# What a page holds beside the elements and attributes of its templates.
INTRUDERS = """() => {
  const fine = (element) => element.closest('head') || element.type === 'application/json'
  const strange = 'iframe,object,embed,base,template,math,svg,video,audio,marquee,image,style,script,link,meta'
  const found = [...document.querySelectorAll(strange)].filter((element) => !fine(element))
  for (const element of document.querySelectorAll('*')) {
    for (const { name, value } of element.attributes) {
      const runs = /^(on|(data-)?hx-)/.test(name)
      const leads = ['href', 'src', 'action', 'formaction', 'data'].includes(name) && !/^[/?#h]/.test(value)
      if (runs || leads || (name === 'src' && !value.startsWith('/assets/'))) found.push(element)
    }
  }
  return found.map((element) => element.outerHTML.slice(0, 200))
}"""


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command of somebody's own that repeats what it is told."""
    for name in ("_types", "_by_model", "_handlers"):
        monkeypatch.setattr(default, name, dict(getattr(default, name)))

    @default.command("shop.note", subject="user")
    class Note(BaseModel):
        notes: dict[str, Any]
        end: str = "done"

    @default.handles(Note)
    async def note(command: Command[Note]) -> Effects:
        if command.payload.end == "rejected":
            raise Rejected(EVERYTHING)
        return Effects().result(**command.payload.notes)


@pytest.fixture(autouse=True)
def long_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything on one page, so that few have to be loaded."""
    for module, name in ((audit_chain, "PAGE"), (commands, "PAGE"), (dead_letters, "PAGE"), (room, "SHOWN")):
        monkeypatch.setattr(module, name, 500)
    monkeypatch.setattr(frame, "DEADLINE_S", 30.0)


class Written:
    """Puts every payload where it can be put."""

    def __init__(self, chat: Chat, node: RunningNode, api: Api, server: Server) -> None:
        self.chat, self.node, self.api, self.server = chat, node, api, server
        self.noted = self.refused = self.letter = ""

    async def all(self) -> None:
        await self.recorded()
        await self.said()

    async def recorded(self) -> None:
        """What exports have."""
        await self.issued()
        await self.of_a_plugin()
        await self.dead()

    async def issued(self) -> None:
        """Titles, reasons, notices, warnings."""
        issued = [
            [
                {"type": "room.open", "subject": f"room:r{n}", "payload": {"title": text}, "reason": reason},
                {"type": "member.mute", "subject": f"room:r{n}", "payload": {"user": f"u{n}"}, "reason": reason},
                {"type": "notice.post", "subject": "room:lobby", "payload": {"text": text}, "reason": reason},
                {"type": "user.warn", "subject": "user:bo", "payload": {"text": text}, "reason": reason},
                {"type": "user.ban", "subject": f"user:b{n}", "payload": {}, "reason": reason},
            ]
            for n, (text, reason) in enumerate(zip(PAYLOADS, REASONS, strict=True))
        ]
        answer = await self.api.post("/commands/batch", {"commands": list(itertools.chain.from_iterable(issued))})
        assert [each for each in answer.json["results"] if each["status"] != 202] == []
        for title in TITLES:
            await self.chat.done("room.open", "room:lobby", {"title": title})

    async def said(self) -> None:
        """Names, and what they say."""

        async def speak(n: int) -> None:
            async with signed_in(self.node.url, f"u{n}", "lobby", name=NAMES[n]) as speaker:
                await speaker.say("lobby", PAYLOADS[n])

        for first in range(0, len(PAYLOADS), 20):
            await asyncio.gather(*map(speak, range(len(PAYLOADS))[first : first + 20]))
        for n in range(0, len(PAYLOADS), 10):  # these stay, and are members
            await self.chat.client(self.node, f"u{n}", "lobby", name=NAMES[n])

    async def of_a_plugin(self) -> None:
        notes = {text: text for text in PAYLOADS} | {"all": EVERYTHING, "deep": [{"a": EVERYTHING}]}
        for end in ("done", "rejected"):
            answer = await self.api.issue("shop.note", "user:bo", {"notes": notes, "end": end}, wait=30)
            assert answer.json["state"] == end
            self.noted, self.refused = self.refused, answer.json["id"]

    async def dead(self) -> None:
        """What other programs left in a stream, as text and as bytes that are none."""
        raw = self.server.client()
        stream = self.chat.bridge.keys.commands(1)
        for text in (*map(str.encode, PAYLOADS), *BYTES):
            fields = {b"v": b"1", b"type": text, b"subject": text, b"payload": text, b"by": text, b"reason": text}
            await raw.xadd(stream, {**fields, b"at": b"1", text: text})  # type: ignore[dict-item]
            told = orjson.dumps({"user": text.decode("utf-8", "replace"), "all": PAYLOADS})
            known = {b"type": b"shop.gift", b"subject": b"user:u1", b"payload": told, b"v": b"1"}
            await raw.xadd(stream, {**fields, **known, b"at": b"1"})  # type: ignore[dict-item]
        wanted = 2 * len(PAYLOADS + BYTES)

        async def buried() -> bool:
            return int(await raw.xlen(self.chat.bridge.keys.dead(1))) == wanted

        await until(buried, 60, what="all are dead letters")
        items = (await self.api.get("/dead?limit=1&code=unknown_type")).json["items"]
        self.letter = items[0]["id"]


@pytest.fixture
async def written(chat: Chat, node: RunningNode, api: Api, server: Server) -> Written:
    return Written(chat, node, api, server)


async def shown(page: Page, texts: tuple[str, ...] = ()) -> None:
    """The page has these texts, and nothing of theirs became more than text."""
    assert await page.evaluate(INTRUDERS) == [], page.url
    text = await page.locator("body").evaluate("body => body.textContent")
    assert [each for each in texts if each.strip() not in text] == [], page.url


async def pages(desk: Desk, written: Written) -> None:
    """Everywhere that somebody reads it."""
    rooms = [f"r{n}" for n in range(0, len(PAYLOADS), 20)]
    for path, texts in {
        "/rooms": PAYLOADS[:98], "/commands": REASONS, "/audit": REASONS, "/sanctions": REASONS, "/dead": PAYLOADS,
        f"/commands/{written.noted}": (), f"/commands/{written.refused}": (), f"/dead/{written.letter}": (),
        "/rooms/lobby": (*PAYLOADS, *NAMES, TITLES[1]), "/users/u7": (NAMES[7],), "/users/bo": PAYLOADS[-10:],
        "/": (), "/announce": (), "/users": (), "/shards/1": (), "/nodes": (),
        **{f"/rooms/{id}": (PAYLOADS[int(id[1:])],) for id in rooms},
    }.items():  # fmt: skip
        await desk.go(path)
        await desk.live()
        await shown(desk.page, texts)


async def test_nothing_that_people_wrote_runs_on_a_page_or_comes_alive_in_it(written: Written, sit: Sit) -> None:
    desk, other, third = await sit(), await sit(), await sit()
    for each, path in ((desk, "/rooms/lobby"), (other, "/commands"), (third, "/dead")):
        await each.log_in()
        await each.go(path)
        await each.live()
    await written.all()
    last = PAYLOADS[-1].strip()
    await expect(desk.page.locator(".said .text", has_text=last).first).to_be_visible()
    await expect(other.page.locator("[data-row]", has_text="shop.gift").first).to_be_visible()
    await third.page.locator("#live .row").get_by_role("button", name="Requeue").wait_for()
    for each in (desk, other, third):
        await shown(each.page)
    await pages(desk, written)


async def test_nothing_runs_in_what_scripts_build(written: Written, api: Api, sit: Sit) -> None:
    desk = await sit()
    await desk.log_in()
    await written.of_a_plugin()
    await written.dead()
    for text in (PAYLOADS[0], PAYLOADS[7], TITLES[1]):
        await written.chat.done("room.open", "room:lobby", {"title": text})
        await desk.go("/rooms/lobby")
        await expect(desk.page.locator("h1")).to_have_text(text)
    await desk.page.goto(f"{desk.url}/dead?" + urlencode({"type": PAYLOADS[7]}))
    await shown(desk.page, (PAYLOADS[7],))
    await desk.go("/dead?code=unknown_type")
    await desk.page.locator("[data-row] a").first.click()
    form = desk.page.locator("form[data-form]")
    await form.get_by_label("Reason").fill(PAYLOADS[7])
    await form.get_by_role("button", name="Requeue").click()
    await expect(desk.outcome).to_contain_text("Requeue: done")
    await desk.go("/commands/new?" + urlencode({"type": "shop.note", "subject": "user:bo", "notes": EVERYTHING}))
    form = desk.page.locator("form[data-form]")
    await form.locator("[name='/payload/notes']").fill(orjson.dumps({"x": EVERYTHING}).decode())
    await form.locator("[name='/payload/end']").fill("rejected")
    await form.get_by_role("button", name="Issue").click()
    await expect(desk.outcome).to_contain_text(PAYLOADS[7])
    await shown(desk.page, PAYLOADS)


async def test_names_that_are_markup_are_refused(api: Api) -> None:
    for text in PAYLOADS:
        assert (await api.post("/operators", {"name": text, "role": "viewer"})).status == 422
        assert (await api.post("/tokens", {"name": text, "role": "viewer"})).status == 422


async def test_what_is_exported_runs_neither_in_a_browser_nor_in_a_spreadsheet(
    written: Written, api: Api, sit: Sit, tmp_path: Path
) -> None:
    await written.recorded()
    desk = await sit()
    for what, form in itertools.product(("commands", "audit", "dead"), ("csv", "jsonl")):
        data = (await api.get(f"/export?what={what}&format={form}")).body
        if form == "csv":
            rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
            assert [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
        else:
            rows = [orjson.loads(line) for line in data.splitlines()]
        assert len(rows) > len(PAYLOADS)
        for name in (f"{what}.{form}", what, f"{what}.txt"):  # without an ending, a browser looks into the file
            (tmp_path / name).write_bytes(data)
            await opened(desk.page, tmp_path / name)
            assert await desk.page.locator("script, img, svg, iframe").count() == 0


async def opened(page: Page, file: Path) -> None:
    with contextlib.suppress(Error):  # it is a download
        await page.goto(file.as_uri())
