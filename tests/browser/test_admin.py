"""The admin pages in Chromium, as operators use them."""

from __future__ import annotations

import contextlib
import os
import re
import signal

import pytest
from playwright.async_api import TimeoutError, expect
from redis.asyncio import Redis

from bridge.child import Child
from tests.backoffice.service import PASSWORD, Api
from tests.browser.desk import Sit, axe
from tests.browser.payloads import PAYLOADS
from tests.chatserver.conftest import Chat, RunningNode
from tests.servers import Server
from tests.waiting import until

expect.set_options(timeout=15_000)  # the machine may be busy with other tests
PATHS = [
    "/", "/commands", "/commands/{command}", "/commands/new?type=member.mute", "/rooms", "/rooms/lobby", "/users",
    "/users/bo", "/users?id=..", "/sanctions", "/announce", "/dead", "/dead/{dead}", "/nodes", "/shards", "/shards/1",
    "/audit", "/access", "/system", "/password", "/commands?q=typ:x", "/rooms/nowhere",
]  # fmt: skip


async def test_who_is_not_logged_in_logs_in_and_comes_where_they_wanted(node: RunningNode, sit: Sit) -> None:
    desk = await sit()
    await desk.page.goto(f"{desk.url}/password")
    await desk.page.locator("[name=name]").fill("admin")
    await desk.page.locator("[name=password]").fill("wrong")
    await desk.page.locator("button.primary").click()
    await expect(desk.page.get_by_role("alert")).to_have_text("Name or password is wrong.")
    await expect(desk.page.locator("[name=name]")).to_have_value("admin")
    await desk.page.locator("[name=password]").fill(PASSWORD)
    await desk.page.locator("button.primary").click()
    await expect(desk.page).to_have_url(f"{desk.url}/password")
    assert await until(lambda: [problem for problem in desk.problems if "401" in problem])
    desk.expected = ("401",)


async def test_the_overview_shows_nodes_as_they_come_and_go(chat: Chat, node: RunningNode, sit: Sit) -> None:
    desk = await sit()
    await desk.log_in()
    await desk.live()
    rows = desk.page.locator("#below tbody tr")
    await expect(rows).to_have_count(1)
    await expect(rows.first).to_contain_text("node-a")
    await expect(desk.page.locator(".cells li")).to_have_count(4)
    await expect(desk.page.locator(".uplot")).to_have_count(4)
    await chat.start_node("node-b")
    await expect(rows).to_have_count(2)
    await expect(desk.page.locator(".cells li", has_text="node-b").first).to_be_visible()


async def test_a_killed_node_is_seen_to_go_its_shards_to_move_and_the_alarm_to_come_and_go(
    processes: list[Child], sit: Sit
) -> None:
    desk = await sit()
    await desk.log_in()
    await desk.live()
    alarm, row = desk.page.locator("#alarms"), desk.page.locator("#below tr", has_text="node-a")
    await expect(desk.page.locator(".cells li", has_text="node-a").first).to_be_visible()
    os.kill(processes[0].pid, signal.SIGKILL)
    await expect(desk.page.locator(".cells li", has_text="node-b")).to_have_count(4)
    await expect(row).to_contain_text("dead")
    await expect(alarm).to_contain_text("node-a did not say goodbye")
    await expect(desk.page.locator(".bell")).to_have_text("1 alarm")
    assert await processes[0].wait() == -signal.SIGKILL
    await processes[0].start()
    await expect(row).to_contain_text("live")
    await expect(alarm).to_have_text("All is well: no alarms.", timeout=45_000)
    await expect(desk.page.locator(".bell")).to_have_text("No alarms")


async def test_logging_out_everywhere_ends_the_other_tab(node: RunningNode, sit: Sit) -> None:
    desk, other = await sit(), await sit()
    for each in (desk, other):
        await each.log_in()
        await each.live()
    await desk.page.locator("details.me summary").click()
    await desk.page.get_by_role("button", name="Log out everywhere").click()
    for each in (desk, other):
        await expect(each.page.get_by_role("heading", name="Log in")).to_be_visible()
        each.expected = ("401", "403")  # its events may end before the page is left


async def test_a_page_that_is_refused_its_events_asks_for_them_again(node: RunningNode, sit: Sit) -> None:
    desk = await sit()
    desk.expected = ("429",)
    await desk.page.route("**/api/v1/live?*", lambda route: route.fulfill(status=429), times=1)
    await desk.log_in()
    await expect(desk.page.locator("#link")).to_have_text("connecting again")
    await expect(desk.page.locator("#link")).to_have_text("Live", timeout=30_000)


@pytest.fixture
async def paths(api: Api, chat: Chat, node: RunningNode, server: Server) -> list[str]:
    """Every page, with something on it."""
    speaker = await chat.client(node, "bo", "lobby", name=PAYLOADS[0])
    for text in PAYLOADS[:5]:
        await speaker.say("lobby", text)
    await chat.done("notice.post", "room:lobby", {"text": PAYLOADS[0], "level": "warning"}, reason=PAYLOADS[1])
    await api.issue("member.mute", "room:lobby", {"user": "ann", "seconds": 60}, reason=PAYLOADS[2], wait=10)
    muted = await api.issue("user.mute", "user:bo", {"seconds": None}, reason=PAYLOADS[3], wait=10)
    strange = {"v": "1", "type": "shop.gift", "subject": "user:u1", "payload": "{}", "by": PAYLOADS[0], "at": "1"}
    async with Redis.from_url(server.url) as redis:
        await redis.xadd("chat:{1}:commands", strange)  # type: ignore[arg-type]

    async def buried() -> str | None:
        items = (await api.get("/dead")).json["items"]
        return str(items[0]["id"]) if items else None

    dead = await until(buried, what="a dead letter")
    return [path.format(command=muted.json["id"], dead=dead) for path in PATHS]


@pytest.mark.parametrize("locale", ["en-GB", "ko-KR"])
async def test_nobody_stumbles_over_a_page(paths: list[str], sit: Sit, locale: str) -> None:
    desk = await sit(locale=locale)
    await desk.go("/login")
    found = await axe(desk)
    await desk.log_in()
    for path in paths:
        await desk.go(path)
        found += await axe(desk)
        assert await desk.page.locator("html").get_attribute("lang") == locale[:2]
    desk.expected = ("404", "422")  # a page that is not there, and a search that cannot be read
    assert found == []


async def test_pages_can_be_read_without_scripts_on_a_narrow_screen(paths: list[str], sit: Sit) -> None:
    desk = await sit(java_script_enabled=False, viewport={"width": 400, "height": 800})
    await desk.log_in()
    for path in paths:
        await desk.go(path)
        width = await desk.page.locator("main").evaluate("main => main.scrollWidth")
        assert width <= 400, path
    desk.expected = ("404", "422")  # a page that is not there, and a search that cannot be read
    await desk.go("/")
    await expect(desk.page.locator("#below")).to_contain_text("node-a")


async def test_looks_and_language_are_chosen_without_scripts(node: RunningNode, sit: Sit) -> None:
    desk = await sit(java_script_enabled=False)
    await desk.go("/login")
    await desk.page.locator("[name=theme]").select_option("dark")
    await desk.page.locator("[name=language]").select_option("ko")
    await desk.page.locator(".preferences button").click()
    await expect(desk.page.locator("html")).to_have_attribute("data-theme", "dark")
    await expect(desk.page.locator("h1")).to_have_text("로그인")


async def test_a_mute_from_a_live_message_to_done_and_back(chat: Chat, node: RunningNode, sit: Sit) -> None:
    desk = await sit()
    await desk.log_in()
    await desk.page.get_by_role("link", name="Rooms").click()
    await desk.page.locator("#live").get_by_role("link", name="lobby").click()
    await desk.live()
    speaker = await chat.client(node, "bo", "lobby")
    await speaker.say("lobby", "buy gold")
    message = desk.page.locator(".said li", has_text="buy gold")
    await message.get_by_role("button", name="Mute").click()
    await expect(desk.dialog).to_contain_text("Mute bo in lobby?")
    await desk.dialog.get_by_label("Reason").fill("spam")
    await desk.dialog.get_by_role("button", name="Mute").click()
    await expect(desk.outcome).to_contain_text(re.compile(r"Mute bo lobby: done on node-a in \d+ ms, 1 session"))
    assert (await speaker.say("lobby", "more gold"))["code"] == "muted"
    await desk.outcome.get_by_role("button", name="Undo").click()
    await expect(desk.outcome).to_contain_text(re.compile(r"Unmute bo lobby: done on node-a"))
    await speaker.say("lobby", "sorry")
    await expect(desk.page.locator(".said li", has_text="sorry")).to_be_visible()
    await message.get_by_role("button", name="Delete").click()
    await desk.dialog.get_by_role("button", name="Delete").click()
    await expect(desk.page.locator(".said li", has_text="deleted by admin")).to_be_visible()


async def test_a_form_keeps_what_was_written_and_says_what_is_wrong(node: RunningNode, sit: Sit) -> None:
    desk = await sit()
    await desk.log_in()
    await desk.go("/commands/new?type=member.mute")
    form = desk.page.locator("form[data-form]")
    await form.get_by_label("Subject").fill("room:lobby")
    await form.locator("[name='/payload/user']").fill("not a name!")
    await form.locator("[name='/payload/seconds']").fill("60")
    await form.get_by_role("button", name="Issue").click()
    await expect(form.locator("[name='/payload/user']")).to_have_attribute("aria-invalid", "true")
    await expect(form.get_by_role("alert")).to_be_visible()
    await expect(form.locator("[name='/payload/seconds']")).to_have_value("60")
    await form.locator("[name='/payload/user']").fill("bo")
    await form.get_by_role("button", name="Issue").click()
    await expect(desk.outcome).to_contain_text("member.mute room:lobby: done on node-a")
    desk.expected = ("422",)


async def test_keys_lead_everywhere(api: Api, node: RunningNode, sit: Sit) -> None:
    desk = await sit()
    await desk.log_in()
    await desk.live()

    async def led() -> bool:  # the second key has to follow soon, which a machine that stalls may miss
        await desk.page.keyboard.press("g")
        await desk.page.keyboard.press("c")
        with contextlib.suppress(TimeoutError):
            await desk.page.wait_for_url(f"{desk.url}/commands", timeout=5000)
            return True
        return False

    await until(led, 30)
    await expect(desk.page.locator("[data-row]").first).to_be_visible()
    await desk.page.keyboard.press("j")
    await api.issue("room.freeze", "room:lobby", {}, wait=10)
    await expect(desk.page.locator("[data-row]")).to_have_count(2)  # what comes in leaves the row where it is
    await desk.page.keyboard.press("Enter")
    await expect(desk.page.get_by_role("heading", name="room.open")).to_be_visible()
    await desk.page.keyboard.press("?")
    await expect(desk.page.locator("dialog#keys")).to_be_visible()
    await desk.page.keyboard.press("Escape")
    await expect(desk.page.locator("dialog#keys")).to_be_hidden()

    async def searching() -> bool:  # a dialog that closes gives the focus back, on a busy machine after the next key
        await desk.page.keyboard.press("/")
        return await desk.page.locator("#search:focus").count() == 1

    await until(searching, 30)


async def test_what_cannot_be_undone_takes_its_name(chat: Chat, node: RunningNode, sit: Sit) -> None:
    desk = await sit()
    await desk.log_in()
    await desk.go("/rooms/lobby")
    await desk.page.get_by_role("button", name="Delete everything").click()
    go = desk.dialog.get_by_role("button", name="Delete everything")
    await expect(go).to_be_disabled()
    await desk.dialog.get_by_label("Write lobby to go on").fill("lobby")
    await go.click()
    await expect(desk.outcome).to_contain_text("Delete everything lobby: done")


async def test_a_made_up_password_is_shown_once(node: RunningNode, sit: Sit) -> None:
    desk, other = await sit(), await sit()
    await desk.log_in()
    await desk.go("/access")
    await desk.page.get_by_role("button", name="New operator").click()
    await desk.dialog.get_by_label("Name").fill("mo")
    await desk.dialog.get_by_label("Role").select_option("moderator")
    await desk.dialog.get_by_role("button", name="New operator").click()
    secret = await desk.outcome.locator(".secret").text_content()
    await expect(desk.page.locator("#o-mo")).to_contain_text("has a one-time password")
    await other.log_in("mo", str(secret))
    await expect(other.page.get_by_role("heading", name="Change the password")).to_be_visible()
    await desk.page.locator("#o-mo").get_by_role("button", name="Disable").click()
    await desk.dialog.get_by_role("button", name="Disable").click()
    await expect(desk.page.locator("#o-mo")).to_contain_text("disabled")
    other.expected = ("401", "403")


async def test_a_node_is_drained_and_taken_up_again(chat: Chat, node: RunningNode, sit: Sit) -> None:
    await chat.start_node("node-b")
    desk = await sit()
    await desk.log_in()
    await desk.go("/nodes")
    await desk.live()
    row = desk.page.locator("#n-node-b")
    await row.get_by_role("button", name="Drain").click()
    await expect(desk.dialog).to_contain_text("node-b hands")
    await desk.dialog.get_by_role("button", name="Drain").click()
    await expect(row).to_contain_text("draining")
    await row.get_by_role("button", name="Take up again").click()
    await desk.dialog.get_by_role("button", name="Take up again").click()
    await expect(row).to_contain_text("live")
