"""Admin pages that stay open: put away and brought back, cut off, logged out, paused; and what asks before it acts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.backoffice.service import PASSWORD, Api, backoffice, settings
from tests.browser.desk import Desk, Sit, axe, desks
from tests.chatserver.client import signed_in
from tests.chatserver.conftest import Chat, RunningNode
from tests.servers import Server

expect.set_options(timeout=30_000)  # the machine may be busy with other tests
SIX = 6  # connections that browsers allow to one host over HTTP/1.1, of all tabs together
PUT_AWAY = """away => {
  Object.defineProperty(document, 'hidden', { get: () => away, configurable: true })
  document.dispatchEvent(new Event('visibilitychange'))
}"""  # headless tabs are all seen
DRAWN = """() => {
  const { uPlot } = window
  window.drawn = []
  window.uPlot = class extends uPlot { constructor(...given) { super(...given); drawn.push(this) } }
}"""


async def opened(sit: Sit, path: str) -> Desk:
    desk = await sit()
    await desk.log_in()
    await desk.go(path)
    await desk.live()
    return desk


def link(page: Page) -> Any:
    return page.locator("#link")


async def test_a_seventh_tab_works_since_those_that_nobody_sees_let_go(api: Api, node: RunningNode, sit: Sit) -> None:
    desk = await opened(sit, "/rooms")
    await desk.page.evaluate(PUT_AWAY, True)
    for _ in range(SIX - 1):
        tab = await desk.page.context.new_page()
        await tab.goto(f"{desk.url}/rooms")
        await expect(link(tab)).to_have_text("Live")
        await tab.evaluate(PUT_AWAY, True)
    seventh = await desk.page.context.new_page()
    await seventh.goto(f"{desk.url}/rooms")
    await expect(link(seventh)).to_have_text("Live")
    await api.issue("room.open", "room:late", {}, wait=10)
    await expect(seventh.get_by_role("link", name="late")).to_be_visible()
    await expect(desk.page.get_by_role("link", name="late")).to_have_count(0)
    await desk.page.evaluate(PUT_AWAY, False)
    await expect(desk.page.get_by_role("link", name="late")).to_be_visible()
    await desk.live()


async def test_what_cannot_be_fetched_again_is_not_called_live_and_is_tried_again(node: RunningNode, sit: Sit) -> None:
    desk = await opened(sit, "/commands")  # where nothing happens by itself
    desk.expected = ("503",)
    seen = asyncio.Event()

    async def refuse(route: Route) -> None:
        await (route.continue_() if seen.is_set() else route.fulfill(status=503))

    await desk.page.route("**/commands", refuse)
    await desk.page.evaluate(PUT_AWAY, False)  # somebody comes back to it
    await expect(link(desk.page)).to_have_text("cannot be refreshed")
    seen.set()
    await desk.live()


async def test_pages_tell_that_redis_is_away_by_themselves(own_server: Server, browser: Browser) -> None:
    async with backoffice(settings(own_server.url), prompt=True) as api, desks(browser, api.url) as sit:
        desk = await opened(sit, "/shards/0")
        desk.expected = ("503",)
        for _ in range(2):  # of which the first may have been asked for as the stream began
            async with desk.page.expect_response("**/shards/0"):
                pass
        own_server.stop()
        try:
            await expect(link(desk.page)).to_have_text("cannot be refreshed")
            await expect(desk.page.get_by_role("heading", name="In hand")).to_be_visible()
        finally:
            own_server.cont()
        await desk.live()


async def test_a_page_that_is_paused_still_rings(server: Server, chat: Chat, node: RunningNode, sit: Sit) -> None:
    desk = await opened(sit, "/rooms/lobby")
    await expect(desk.page.locator(".bell")).to_have_text("No alarms")
    await desk.page.get_by_role("button", name="Pause").click()
    speaker = await chat.client(node, "bo", "lobby")
    await speaker.say("lobby", "not yet")
    strange = {"v": "1", "type": "shop.gift", "subject": "user:u1", "payload": "{}", "by": "shop", "at": "1"}
    await server.client().xadd("chat:{1}:commands", strange)  # type: ignore[arg-type]
    await expect(desk.page.locator(".bell")).not_to_have_text("No alarms")
    await expect(desk.page.locator(".said li")).to_have_count(0)
    await desk.page.get_by_role("button", name="Go on").click()
    await expect(desk.page.locator(".said li")).to_contain_text("not yet")


async def test_what_was_written_outlives_the_session(node: RunningNode, sit: Sit) -> None:
    desk = await opened(sit, "/announce")
    desk.expected = ("401", "403")
    text, announce = desk.page.get_by_label("Text"), desk.page.get_by_role("button", name="Announce")
    await text.fill("a long text")
    await desk.page.evaluate("fetch('/api/v1/session', { method: 'DELETE' })")
    told = desk.page.locator("form[data-form] .ended")
    await expect(told).to_contain_text("Your session has ended; nothing that you wrote is lost.")
    assert await axe(desk) == []
    await announce.click()
    await desk.dialog.get_by_role("button", name="Announce").click()
    await expect(desk.dialog).to_be_hidden()
    await expect(told).to_have_count(1)
    async with desk.page.context.expect_page() as opening:
        await told.get_by_role("link", name="Log in, in another tab").click()
    other = await opening.value
    await other.locator("[name=name]").fill("admin")
    await other.locator("[name=password]").fill(PASSWORD)
    await other.locator("button.primary").click()
    await expect(other.locator("nav.side")).to_be_visible()
    await expect(text).to_have_value("a long text")
    await announce.click()
    await expect(desk.dialog).to_contain_text("Show this to everybody: ")
    assert await axe(desk) == []
    await desk.dialog.get_by_role("button", name="Announce").click()
    await expect(desk.outcome).to_contain_text("Announce: done")
    await expect(told).to_have_count(0)


async def test_a_dialog_that_is_open_outlives_the_session(node: RunningNode, sit: Sit) -> None:
    desk = await opened(sit, "/rooms/lobby")
    desk.expected = ("401", "403")
    await desk.page.get_by_role("button", name="Notice").click()
    await desk.dialog.get_by_label("Text").fill("a long text")
    await desk.page.evaluate("fetch('/api/v1/session', { method: 'DELETE' })")
    await expect(desk.dialog.get_by_role("link", name="Log in, in another tab")).to_be_visible()
    await expect(desk.dialog.get_by_label("Text")).to_have_value("a long text")
    await desk.page.keyboard.press("Escape")
    await expect(desk.page.get_by_role("heading", name="Log in")).to_be_visible()


async def test_a_form_asks_before_what_is_dangerous(node: RunningNode, sit: Sit) -> None:
    desk = await opened(sit, "/commands/new?type=room.clear&subject=room:lobby")
    issue = desk.page.get_by_role("button", name="Issue")
    await issue.click()
    await expect(desk.dialog).to_contain_text("Delete everything that was said in lobby? It cannot come back.")
    go = desk.dialog.get_by_role("button", name="Delete everything")
    await expect(go).to_be_disabled()
    await desk.dialog.get_by_role("button", name="Cancel").click()
    await issue.click()
    await desk.dialog.get_by_label("Write lobby to go on").fill("lobby")
    await go.click()
    await expect(desk.outcome).to_contain_text("room.clear room:lobby: done")
    await expect(desk.page.locator(".outcome")).to_have_count(1)

    await desk.go("/commands/new?type=member.kick&subject=room:lobby&user=bo")
    await issue.click()
    await expect(desk.dialog).to_contain_text("Remove bo from lobby? They may come back.")
    await desk.dialog.get_by_role("button", name="Kick").click()
    await expect(desk.outcome).to_contain_text("member.kick room:lobby: done")


async def test_single_keys_are_turned_off_by_who_presses_them_without_meaning_to(node: RunningNode, sit: Sit) -> None:
    desk = await opened(sit, "/rooms")
    keys = desk.page.locator("dialog#keys")
    for choice, seen in (("off", False), ("on", True)):
        await desk.page.locator("details.me summary").click()
        async with desk.page.expect_navigation():
            assert await axe(desk) == []
            await desk.page.get_by_label("Keys without Ctrl or Alt").select_option(choice)
        await desk.live()
        await desk.page.keyboard.press("?")
        await expect(keys).to_be_visible(visible=seen)


async def test_charts_take_no_sample_twice_and_are_drawn_anew_after_a_gap(node: RunningNode, sit: Sit) -> None:
    desk = await opened(sit, "/")
    await expect(desk.page.locator(".uplot")).to_have_count(4)
    await desk.page.evaluate(DRAWN)
    async with desk.page.expect_response("**/api/v1/series?span=minutes"):
        await desk.page.evaluate("document.dispatchEvent(new CustomEvent('live:gap', { detail: {} }))")
    await desk.page.wait_for_function("drawn.length >= 4 && drawn[0].data[0].length")
    times = await desk.page.evaluate("""() => {
      const sample = { at: drawn[0].data[0][0], rate: 1, lag: 0, pending: 0 }
      document.dispatchEvent(new CustomEvent('live:sample', { detail: sample }))
      return drawn[0].data[0]
    }""")
    assert times == sorted(set(times))


async def test_a_user_is_seen_to_leave(node: RunningNode, sit: Sit) -> None:
    desk = await opened(sit, "/users/bo")
    badge = desk.page.locator("#live .badge").first
    async with signed_in(node.url, "bo", "lobby"):
        await expect(badge).to_have_text("connected")
    await expect(badge).to_have_text("not connected")


@pytest.fixture
async def two_of_each(chat: Chat, node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rooms, two members and two sanctions, on pages that show one."""
    for name in ("announce.ROOMS", "room.MEMBERS", "users.SANCTIONS"):
        monkeypatch.setattr(f"backoffice.ui.{name}", 1)
    await chat.done("room.open", "room:zoo", {})
    for user in ("ann", "bo"):
        await chat.client(node, user, "lobby")
        await chat.done("user.mute", f"user:{user}", {"seconds": None})


@pytest.mark.usefixtures("two_of_each")
async def test_nothing_is_left_out_of_a_list_unsaid(sit: Sit) -> None:
    desk = await sit()
    await desk.log_in()
    further = desk.page.get_by_role("link", name="Further ones")
    await desk.go("/rooms/lobby")
    await expect(desk.page.locator("#live")).to_contain_text("and 1 further member")
    await desk.go("/users")
    await expect(desk.page.locator("main")).to_contain_text("ann")
    await expect(desk.page.locator("main")).not_to_contain_text("bo")
    await further.click()
    await expect(desk.page.locator("main")).to_contain_text("bo")
    await expect(further).to_have_count(0)


@pytest.mark.usefixtures("two_of_each")
async def test_a_room_that_is_not_offered_is_announced_to_and_what_was_written_stays(
    chat: Chat, node: RunningNode, sit: Sit
) -> None:
    there = await chat.client(node, "cy", "zoo")
    desk = await opened(sit, "/announce")
    form = desk.page.locator("form[data-form]")
    text, room = form.get_by_label("Text"), form.get_by_label("Who sees it")
    await text.fill("the zoo closes")
    await form.get_by_label("Level").select_option("warning")
    await form.get_by_label("Shown for seconds").fill("7")
    assert await form.locator("datalist option").evaluate_all("all => all.map(({ value }) => value)") == ["lobby"]
    await expect(form.get_by_role("link")).to_have_count(0)  # which would lead away from what was written
    await room.fill("zoo")
    assert await axe(desk) == []
    await form.get_by_role("button", name="Announce").click()
    await expect(desk.dialog).to_contain_text("Show this to everybody in zoo?")
    await desk.dialog.get_by_role("button", name="Announce").click()
    await expect(desk.outcome).to_contain_text("Announce: done")
    flash = await there.push("notice", room="zoo")
    assert (flash["text"], flash["level"], flash["seconds"]) == ("the zoo closes", "warning", 7)
    await room.fill("")
    await form.get_by_role("button", name="Announce").click()
    await expect(desk.dialog).to_contain_text("Show this to everybody: ")
