"""The demo chat page in Chromium, as people use it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, expect

from bridge.child import Child
from tests.browser.conftest import ForPages
from tests.browser.runtimes import PATIENCE_S
from tests.browser.test_client import numbered, say_all
from tests.chatserver.conftest import Chat, RunningNode

XSS = [
    "<img src=x onerror=hacked=1>",
    "<script>hacked=1</script>",
    "javascript:hacked=1",
    "'\"><svg/onload=hacked=1>",
    "{{constructor.constructor('hacked=1')()}}",
]
expect.set_options(timeout=PATIENCE_S * 1000)
WATCH = "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.blockedURI))"


class Visitor:
    """One person's tab, and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: self.problems.append(f"dialog {dialog.message}"))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    @property
    def messages(self) -> Locator:
        return self.page.locator(".message .text")

    @property
    def link(self) -> Locator:
        return self.page.locator("#link")

    @property
    def banner(self) -> Locator:
        return self.page.locator("#banner-text")

    async def sign_in(self, name: str) -> str:
        """Returns the user's id."""
        await self.page.get_by_label("Your name").fill(name)
        await self.page.keyboard.press("Enter")
        await expect(self.link).to_contain_text("Connected")
        await expect(self.page.get_by_role("textbox", name="Message Lobby")).to_be_enabled()
        return (await self.page.locator("#me-id").text_content()) or ""

    async def say(self, text: str) -> None:
        box = self.page.get_by_role("textbox", name=re.compile("^Message"))
        await box.fill(text)
        await box.press("Enter")

    async def sees(self, text: str | re.Pattern[str]) -> None:
        await expect(self.messages.get_by_text(text, exact=True)).to_have_count(1)


Visit = Callable[..., Awaitable[Visitor]]


@asynccontextmanager
async def visits(browser: Browser, address: str) -> AsyncIterator[Visit]:
    visitors: list[Visitor] = []

    async def visit(**options: Any) -> Visitor:
        context = await browser.new_context(**options)
        await context.add_init_script(WATCH)
        visitor = Visitor(await context.new_page())
        visitors.append(visitor)
        await visitor.page.goto(address)
        return visitor

    yield visit
    for visitor in visitors:
        await visitor.page.context.close()
        assert visitor.problems == []


@pytest.fixture
async def node(chat: Chat) -> RunningNode:
    running = await chat.start_node(demo_page=True, **ForPages)
    await chat.done("room.open", "room:lobby", {"title": "Lobby"})
    return running


@pytest.fixture
async def visit(node: RunningNode, browser: Browser) -> AsyncIterator[Visit]:
    """Open the page as somebody new; nothing may go wrong in it."""
    async with visits(browser, node.http) as visit:
        yield visit


async def test_two_people_chat_and_an_operator_looks_after_them(chat: Chat, visit: Visit) -> None:
    mina, bert = await visit(), await visit()
    user = await mina.sign_in("김미나")
    await bert.sign_in("bert")
    await mina.say("안녕하세요!\nsecond line")
    await bert.sees(re.compile("^안녕하세요!\nsecond line$"))
    await mina.sees(re.compile("^안녕하세요!\nsecond line$"))
    await expect(bert.page.locator(".name")).to_have_text("김미나")
    await expect(bert.page.locator("#people")).to_have_text("2 people here")

    await chat.done("notice.post", "room:lobby", {"text": "Welcome!", "level": "info"})
    await expect(bert.page.locator(".notice")).to_have_text("Welcome!")
    await chat.bridge.broadcast("notice.flash", "all", {"text": "Restart soon", "level": "warning", "seconds": 30})
    await expect(bert.page.locator(".flash")).to_contain_text("Restart soon")

    id = await bert.page.locator(".message").get_attribute("data-key")
    await chat.done("message.delete", "room:lobby", {"message_ids": [id]})
    await expect(bert.messages).to_have_text("Message deleted")

    await chat.done("member.mute", "room:lobby", {"user": user, "seconds": 600}, reason="spam")
    await expect(mina.banner).to_have_text(re.compile(r"^You are muted until \d\d:\d\d: spam$"))
    await expect(mina.page.locator("#composer")).to_be_hidden()
    await chat.done("member.unmute", "room:lobby", {"user": user})
    await expect(mina.banner).to_be_hidden()

    await chat.done("room.freeze", "room:lobby")
    await expect(bert.banner).to_have_text("This room is frozen: nobody can write for now.")
    await expect(bert.page.locator("#room-state")).to_have_text("frozen")
    await chat.done("room.unfreeze", "room:lobby")
    await chat.done("user.warn", f"user:{user}", {"text": "be nice"})
    await expect(mina.page.locator(".flash").last).to_contain_text("A moderator warns you: be nice")

    await chat.done("member.kick", "room:lobby", {"user": user}, reason="flooding")
    await expect(mina.banner).to_have_text("You were removed from this room: flooding")
    await mina.page.get_by_role("button", name="Join again").click()
    await mina.say("I am back")
    await bert.sees("I am back")

    await chat.done("user.kick", f"user:{user}", reason="enough")
    await expect(mina.page.get_by_role("alert")).to_have_text("You were removed from the chat: enough")
    await expect(mina.page.get_by_label("Your name")).to_be_focused()


async def test_what_people_write_is_never_markup(chat: Chat, node: RunningNode, visit: Visit) -> None:
    visitor = await visit()
    await visitor.sign_in(XSS[0])
    for number, text in enumerate(XSS):
        other = await chat.client(node, f"u{number}", "lobby", name=text[:64])
        await other.say("lobby", text)
        await visitor.sees(text)
    await chat.done("notice.post", "room:lobby", {"text": XSS[0]})
    await chat.done("room.open", "room:lobby", {"title": XSS[1]})
    await chat.done("user.warn", f"user:{await visitor.page.locator('#me-id').text_content()}", {"text": XSS[3]})
    await expect(visitor.page.locator(".flash")).to_contain_text(XSS[3])
    await expect(visitor.page.get_by_role("heading", level=1)).to_have_text(XSS[1])
    assert await visitor.page.evaluate("() => typeof hacked") == "undefined"
    assert await visitor.page.locator(".room img, .room script, .room svg[onload]").count() == 0


async def test_slow_mode_counts_down_and_keeps_what_was_typed(chat: Chat, visit: Visit) -> None:
    visitor = await visit()
    await visitor.sign_in("mina")
    await chat.done("room.slow_mode", "room:lobby", {"seconds": 8})
    await expect(visitor.page.locator("#room-state")).to_have_text("slow mode 8 s")
    await visitor.say("first")
    await expect(visitor.page.locator("#left")).to_have_text(re.compile(r"you can write again in \d s"))
    await visitor.say("second")
    await expect(visitor.page.get_by_role("textbox")).to_have_value("second")
    await expect(visitor.page.locator("#send")).to_be_enabled()
    await visitor.page.locator("#send").click()
    await visitor.sees("second")


async def test_enter_that_ends_a_syllable_does_not_send(visit: Visit) -> None:
    visitor = await visit()
    await visitor.sign_in("김미나")
    box = visitor.page.get_by_role("textbox")
    await box.fill("안녕")
    for event in ({"isComposing": True}, {"keyCode": 229}):
        await box.dispatch_event("keydown", {"key": "Enter", **event})
        await expect(box).to_have_value("안녕")
    await box.press("Shift+Enter")
    await box.press("Enter")
    await visitor.sees("안녕")
    await expect(box).to_have_value("")


async def test_older_messages_come_by_scrolling_up_and_the_view_stays(
    chat: Chat, node: RunningNode, visit: Visit
) -> None:
    speaker = await chat.client(node, "ada", "lobby")
    await say_all(speaker, numbered(130))
    visitor = await visit()
    await visitor.sign_in("mina")
    await expect(visitor.messages.last).to_be_in_viewport()
    await expect(visitor.messages).to_have_count(50)
    for count in (100, 130):
        first = visitor.messages.first
        text = await first.text_content()
        await visitor.page.locator("#scroll").evaluate("(pane) => { pane.scrollTop = 0 }")
        await expect(visitor.messages).to_have_count(count)
        await expect(visitor.messages.get_by_text(str(text), exact=True)).to_be_in_viewport()
    await expect(visitor.page.locator("#earlier")).to_have_text("This is where the history begins")
    assert await visitor.messages.all_text_contents() == numbered(130)
    await speaker.say("lobby", "news")
    await visitor.page.get_by_role("button", name="New messages").click()
    await expect(visitor.messages.get_by_text("news", exact=True)).to_be_in_viewport()


async def test_a_reload_keeps_the_user_and_another_tab_is_somebody_else(visit: Visit) -> None:
    visitor = await visit()
    user = await visitor.sign_in("mina")
    await visitor.page.reload()
    await expect(visitor.page.locator("#me-id")).to_have_text(user)
    other = await visit()
    assert await other.sign_in("mina") != user


async def test_who_is_banned_meanwhile_is_told_so_in_words(chat: Chat, node: RunningNode, visit: Visit) -> None:
    visitor = await visit()
    user = await visitor.sign_in("mina")
    await visitor.page.goto("about:blank")
    await chat.done("user.ban", f"user:{user}", {"seconds": 60})
    await visitor.page.goto(node.http)
    await expect(visitor.page.get_by_role("alert")).to_have_text("You are banned from this chat.")


async def test_it_fits_a_narrow_screen_and_needs_no_mouse(chat: Chat, visit: Visit) -> None:
    await chat.done("room.open", "room:trade", {"title": "A trading post with a long name"})
    visitor = await visit(viewport={"width": 360, "height": 640}, color_scheme="dark")
    await visitor.page.keyboard.type("Bartholomew Longname the Third")
    await visitor.page.keyboard.press("Enter")
    await expect(visitor.link).to_contain_text("Connected")
    for target in ("Lobby", "A trading post with a long name"):
        await visitor.page.get_by_role("button", name=target).focus()
        await visitor.page.keyboard.press("Enter")
        await expect(visitor.page.get_by_role("heading", level=1)).to_have_text(target)
    await visitor.say("x" * 300)
    await visitor.sees("x" * 300)
    assert await visitor.page.evaluate("() => document.documentElement.scrollWidth") == 360


async def test_when_its_node_is_killed_the_page_goes_on_with_another(processes: list[Child], browser: Browser) -> None:
    first = processes[0].told["health_url"].removesuffix("healthz")
    async with visits(browser, first) as visit:
        visitor = await visit()
        await visitor.sign_in("mina")
        await expect(visitor.link).to_have_text("Connected to node-a")
        await visitor.say("before")
        await visitor.sees("before")
        os.kill(processes[0].pid, signal.SIGKILL)
        await visitor.say("meanwhile")
        await expect(visitor.link).to_have_text(re.compile("^(Resumed on|Connected to) node-b$"))
        await visitor.sees("meanwhile")
        await expect(visitor.page.locator(".sending")).to_have_count(0)
        assert all("ERR_CONNECTION_REFUSED" in problem for problem in visitor.problems), visitor.problems
        visitor.problems.clear()
