"""Dead letters at the admin pages: counted, sent again and thrown away, many at a time."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import Route, expect

from backoffice.api import dead_letters
from backoffice.ui import dead_letters as page
from bridge.shards import shard_of
from tests.backoffice.service import Api
from tests.browser.desk import Desk, Sit
from tests.browser.test_admin_live import PUT_AWAY
from tests.chatserver.conftest import SHARDS, Chat, RunningNode
from tests.servers import Server
from tests.waiting import until

expect.set_options(timeout=30_000)  # the machine may be busy with other tests
ROOM = "room:lobby"
Bury = Callable[[int], Awaitable[None]]


@pytest.fixture
async def bury(chat: Chat, api: Api, node: RunningNode, server: Server) -> Bury:
    """That many mutes whose effects could not be applied; by now they could."""
    shard, raw = shard_of(ROOM, SHARDS), server.client()
    index, dead = chat.bridge.keys.shared(shard, "sanctions"), chat.bridge.keys.dead(shard)

    async def run(count: int) -> None:
        await raw.set(index, "not a sorted set")
        commands = [{"type": "member.mute", "subject": ROOM, "payload": {"user": f"u{n}"}} for n in range(count)]
        for first in range(0, count, 500):
            answer = await api.post("/commands/batch", {"commands": commands[first : first + 500]})
            assert {result["status"] for result in answer.json["results"]} == {202}

        async def all_died() -> bool:
            return int(await raw.xlen(dead)) == count

        await until(all_died, 60, what="all are dead letters")
        await raw.delete(index)

    return run


async def opened(sit: Sit, path: str) -> Desk:
    desk = await sit()
    await desk.log_in()
    await desk.go(path)
    await desk.live()
    return desk


async def test_five_hundred_are_counted_and_sent_again_by_filter_with_a_reason(
    bury: Bury, chat: Chat, api: Api, sit: Sit
) -> None:
    await bury(500)
    desk = await opened(sit, "/dead?code=effects_failed")
    await expect(desk.page.locator("#live")).to_contain_text("500 dead letters")
    await desk.page.locator("#live .row").get_by_role("button", name="Requeue").click()
    await expect(desk.dialog).to_contain_text("Send 500 dead letters again (code: effects_failed)?")
    for name in ("Dry run", "Requeue"):  # neither goes without a reason
        await desk.dialog.get_by_role("button", name=name).click()
        await expect(desk.dialog.locator("input:invalid")).to_be_focused()
    await desk.dialog.get_by_label("Reason").fill("the index is mended")
    await desk.dialog.get_by_role("button", name="Dry run").click()
    await expect(desk.dialog.get_by_role("status")).to_have_text("Nothing was done yet. 500 would be done")
    assert len((await api.get("/dead?limit=500")).json["items"]) == 500
    await desk.dialog.get_by_role("button", name="Requeue").click()
    await expect(desk.outcome).to_contain_text("Requeue: done; 500 done")
    await expect(desk.page.locator("#live")).to_contain_text("No dead letters.")
    sanctions = await until(lambda: muted(api), 60, what="all are muted")
    assert {each["by"] for each in sanctions} == {"admin"}
    entries = (await api.get("/audit?action=dead_letters.requeue&limit=500")).json["items"]
    assert {entry["reason"] for entry in entries} == {"the index is mended"}


async def muted(api: Api) -> list[dict[str, str]] | None:
    items: list[dict[str, str]] = (await api.get("/sanctions?limit=500")).json["items"]
    return items if len(items) == 500 else None


async def test_more_than_a_call_takes_are_gone_through_call_by_call(
    bury: Bury, api: Api, sit: Sit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_BULK", 20)
    monkeypatch.setattr(page, "A_CALL", 20)
    await bury(50)
    desk = await opened(sit, "/dead")
    await expect(desk.page.locator("#live")).to_contain_text("more than 20 dead letters")
    await desk.page.locator("#live .row").get_by_role("button", name="Discard").click()
    await expect(desk.dialog).to_contain_text("There are more than 20.")
    await desk.dialog.get_by_label("Reason").fill("all of them are old")
    await desk.dialog.get_by_role("button", name="Dry run").click()
    await expect(desk.dialog.get_by_role("status")).to_have_text("Nothing was done yet. 50 would be done")
    await desk.dialog.get_by_label("Write discard to go on").fill("discard")
    await desk.dialog.get_by_role("button", name="Discard").click()
    await expect(desk.outcome).to_contain_text("Discard: done; 50 done")
    await expect(desk.page.locator("#live")).to_contain_text("No dead letters.")
    assert (await api.get("/dead")).json["items"] == []


async def test_what_fails_half_way_goes_on_from_there(
    bury: Bury, api: Api, sit: Sit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "A_CALL", 20)
    await bury(50)
    desk = await opened(sit, "/dead")
    calls = 0

    async def second_fails(route: Route) -> None:
        nonlocal calls
        calls += 1
        await (route.abort() if calls == 2 else route.continue_())

    await desk.page.route(re.compile("/dead/requeue"), second_fails)
    await desk.page.locator("#live .row").get_by_role("button", name="Requeue").click()
    await desk.dialog.get_by_label("Reason").fill("mended")
    await desk.dialog.get_by_role("button", name="Requeue").click()
    await expect(desk.outcome).to_contain_text("The server did not answer; nothing that you wrote is lost; 20 done")
    await desk.outcome.get_by_role("button", name="Go on").click()
    await expect(desk.outcome).to_contain_text("Requeue: done; 50 done")
    await expect(desk.page.locator("#live")).to_contain_text("No dead letters.")
    desk.expected = ("ERR_FAILED",)


async def test_only_those_that_are_selected_are_sent_again(bury: Bury, api: Api, sit: Sit) -> None:
    await bury(3)
    desk = await opened(sit, "/dead")
    await desk.page.locator("#live [type=checkbox]").nth(1).check()
    await desk.page.locator("#live .row").get_by_role("button", name="Requeue").click()
    await expect(desk.dialog).to_contain_text("Send the selected dead letters again? 1 selected")
    await desk.dialog.get_by_label("Reason").fill("mended")
    await desk.dialog.get_by_role("button", name="Requeue").click()
    await expect(desk.outcome).to_contain_text("Requeue: done; 1 done")
    await expect(desk.page.locator("#live")).to_contain_text("2 dead letters")


async def test_one_is_mended_and_sent_again_and_a_second_time_says_so(bury: Bury, api: Api, sit: Sit) -> None:
    await bury(1)
    [letter] = (await api.get("/dead")).json["items"]
    desk = await opened(sit, f"/dead/{letter['id']}")
    form = desk.page.locator("form[data-form]")
    await form.get_by_label("Payload").fill('{"user": "someone-else"}')
    await form.get_by_label("Reason").fill("the wrong one")
    await form.get_by_role("button", name="Requeue").click()
    await expect(desk.outcome).to_contain_text("Requeue: done; 1 done")
    await expect(desk.page.locator(".facts")).to_contain_text("Requeued as")
    await form.get_by_role("button", name="Requeue").click()
    await expect(desk.outcome).to_contain_text("Requeue: done; 0 done, 1 skipped (already requeued)")


async def test_the_page_of_one_that_is_discarded_stays_live(bury: Bury, api: Api, sit: Sit) -> None:
    await bury(1)
    [letter] = (await api.get("/dead")).json["items"]
    path = f"/dead/{letter['id']}"
    desk = await opened(sit, path)
    desk.expected = ("404",)
    title = await desk.page.title()
    await desk.page.get_by_role("button", name="Discard").click()
    await desk.dialog.get_by_label("Reason").fill("it is old")
    await desk.dialog.get_by_label("Write discard to go on").fill("discard")
    async with desk.page.expect_response(lambda answer: answer.url.endswith(path) and answer.status == 404):
        await desk.dialog.get_by_role("button", name="Discard").click()
    async with desk.page.expect_request(f"**{path}"):  # sent once what the answer before says is on the page
        await desk.page.evaluate(PUT_AWAY, False)
    await desk.live()
    await expect(desk.page).to_have_title(title)
    await expect(desk.outcome).to_contain_text("Discard: done; 1 done")
    await expect(desk.page.locator("#gone")).to_be_visible()
    await expect(desk.page.get_by_role("button", name="Discard")).to_be_hidden()
    await expect(desk.page.get_by_role("heading", name="Mend and requeue")).to_be_hidden()


async def test_those_that_were_sent_again_are_listed_and_thrown_away(bury: Bury, api: Api, sit: Sit) -> None:
    await bury(2)
    [letter, other] = (await api.get("/dead")).json["items"]
    await api.post("/dead/requeue", {"ids": [letter["id"]], "payload": {"user": "u9"}, "reason": "mended"})
    desk = await opened(sit, "/dead")
    await desk.page.get_by_label("Which").select_option("sent again")
    await desk.page.get_by_role("button", name="Filter").click()
    await expect(desk.page.locator("[data-row]")).to_have_count(1)
    await expect(desk.page.locator(f"#d-{letter['id']}")).to_be_visible()
    await expect(desk.page.locator("#live").get_by_role("button", name="Requeue")).to_have_count(0)
    await desk.page.locator("#live").get_by_role("button", name="Discard").click()
    await expect(desk.dialog).to_contain_text("Throw 1 dead letter away for good (sent again)?")
    await desk.dialog.get_by_label("Reason").fill("it is old")
    await desk.dialog.get_by_label("Write discard to go on").fill("discard")
    await desk.dialog.get_by_role("button", name="Discard").click()
    await expect(desk.outcome).to_contain_text("Discard: done; 1 done")
    assert (await api.get("/dead?requeued=true")).json["items"] == []
    assert [each["id"] for each in (await api.get("/dead")).json["items"]] == [other["id"]]
