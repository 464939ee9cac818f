"""Dead letters: page through them, put them back once, discard them."""

from __future__ import annotations

import asyncio

import pytest

from bridge.client import Bridge
from bridge.envelope import Command
from bridge.errors import Invalid, InvalidPayload
from bridge.letters import DeadLetter
from bridge.telemetry import Buried, Settled
from tests.conformance.fleet import Desk, Do, Fleet, do, note
from tests.recorder import Recorder


class Mood:
    """A handler that fails while it is bad."""

    def __init__(self) -> None:
        self.bad = True

    async def __call__(self, command: Command[Do]) -> object:
        if self.bad:
            raise ValueError("bad mood")
        return await note(command)


@pytest.fixture
def mood(desk: Desk) -> Mood:
    desk.handle = mood = Mood()
    return mood


@pytest.fixture
async def node(mood: Mood, fleet: Fleet) -> Bridge:
    """A node that buries at the first failure."""
    return await fleet.node(max_attempts=1, shards=2)


async def bury(bridge: Bridge, events: Recorder, count: int = 1) -> list[str]:
    """Dead commands' ids, in the order of their deaths."""
    ids = []
    for n in range(count):
        receipt = await do(bridge, n, f"user:u{n}")
        await events.wait_for(Buried, id=receipt.id)
        ids.append(receipt.id)
    return ids


async def all_letters(bridge: Bridge, **filters: object) -> list[DeadLetter]:
    return (await bridge.dead.page(limit=100, **filters)).items  # type: ignore[arg-type]


async def test_letters_come_newest_first_page_by_page(node: Bridge, events: Recorder) -> None:
    ids = await bury(node, events, 7)
    seen, cursor = list[DeadLetter](), None
    for _ in range(4):
        page = await node.dead.page(limit=2, cursor=cursor)
        seen += page.items
        cursor = page.next_cursor
    assert (sorted(letter.id for letter in seen), cursor) == (sorted(ids), None)
    places = [[int(part) for part in letter.entry_id.split("-")] for letter in seen]  # ``at`` may be a ms off
    assert places == sorted(places, reverse=True)


async def test_letters_can_be_filtered(node: Bridge, events: Recorder) -> None:
    first, _ = await bury(node, events, 2)
    assert [letter.id for letter in await all_letters(node, subject="user:u0")] == [first]
    assert len(await all_letters(node, type="desk.do", code="attempts_used_up")) == 2
    assert await all_letters(node, type="desk.other") == await all_letters(node, code="timed_out") == []
    shard = node.shard_of("user:u0")
    assert first in [letter.id for letter in await all_letters(node, shard=shard)]


async def test_a_cursor_of_another_list_is_refused(node: Bridge) -> None:
    with pytest.raises(Invalid):
        await node.dead.page(limit=2, cursor="nonsense")


async def test_a_letter_put_back_is_a_new_command_that_names_the_old(
    node: Bridge, events: Recorder, mood: Mood
) -> None:
    [id] = await bury(node, events)
    mood.bad = False
    result = await node.dead.requeue([id], by="operator", reason="again")
    [(old, new)] = result.done
    assert (result.matched, old, result.skipped) == (1, id, [])
    assert new is not None
    outcome = await node.outcome(new, wait=5)
    before = await node.outcome(id)
    assert outcome is not None
    assert before is not None
    assert (outcome.state, outcome.origin, outcome.issued_by, outcome.reason) == ("done", id, "operator", "again")
    assert (before.state, before.requeued_as) == ("dead", new)


async def test_putting_a_letter_back_twice_makes_one_command(node: Bridge, events: Recorder, mood: Mood) -> None:
    [id] = await bury(node, events)
    mood.bad = False
    first = await node.dead.requeue([id], by="operator", reason="again")
    again = await node.dead.requeue([id], by="operator", reason="again")
    assert len(first.done) == 1
    assert (again.done, again.skipped) == ([], [(id, "already_requeued")])


async def test_racing_requeues_make_one_command(node: Bridge, fleet: Fleet, events: Recorder, mood: Mood) -> None:
    [id] = await bury(node, events)
    mood.bad = False
    results = await asyncio.gather(*(node.dead.requeue([id], by="operator", reason="again") for _ in range(20)))
    assert sum(len(result.done) for result in results) == 1
    await events.wait_for(Settled, state="done")
    assert len(await fleet.log("user:u0", node.shard_of("user:u0"))) == 1


async def test_a_letter_that_was_put_back_is_off_the_list(node: Bridge, events: Recorder, mood: Mood) -> None:
    ids = await bury(node, events, 2)
    mood.bad = False
    await node.dead.requeue(ids[:1], by="operator", reason="again")
    assert [letter.id for letter in await all_letters(node)] == ids[1:]
    assert [letter.id for letter in await all_letters(node, requeued=True)] == ids[:1]
    await events.wait_for(Settled)


async def test_a_payload_can_be_replaced(node: Bridge, fleet: Fleet, events: Recorder, mood: Mood) -> None:
    [id] = await bury(node, events)
    mood.bad = False
    await node.dead.requeue([id], by="operator", reason="mended", payload={"n": 42})
    await events.wait_for(Settled)
    assert await fleet.log("user:u0", node.shard_of("user:u0")) == [42]


async def test_a_payload_that_does_not_fit_is_refused(node: Bridge, events: Recorder) -> None:
    [id] = await bury(node, events)
    with pytest.raises(InvalidPayload):
        await node.dead.requeue([id], by="operator", reason="mended", payload={"n": "many"})


async def test_a_payload_goes_with_one_letter_only(node: Bridge, events: Recorder) -> None:
    with pytest.raises(Invalid):
        await node.dead.requeue(["0-1-1", "0-2-2"], by="operator", reason="mended", payload={})


async def test_a_dry_run_changes_nothing(node: Bridge, fleet: Fleet, events: Recorder) -> None:
    [id] = await bury(node, events)
    keys = await fleet.raw.dbsize()
    assert (await node.dead.requeue([id], by="operator", reason="again", dry_run=True)).done == [(id, None)]
    assert (await node.dead.discard([id], dry_run=True)).done == [(id, None)]
    assert len(await all_letters(node)) == 1
    assert await fleet.raw.dbsize() == keys


async def test_discarding_is_for_good(node: Bridge, events: Recorder) -> None:
    [id] = await bury(node, events)
    assert (await node.dead.discard([id])).done == [(id, None)]
    assert (await node.dead.discard([id])).skipped == [(id, "not_found")]
    assert await node.dead.get(id) is None


@pytest.mark.parametrize("id", ["0-1-1", "63-1-1"])
async def test_unknown_letters_are_skipped(node: Bridge, id: str) -> None:
    assert (await node.dead.requeue([id], by="operator", reason="again")).skipped == [(id, "not_found")]
    assert (await node.dead.discard([id])).skipped == [(id, "not_found")]


async def test_no_more_than_a_thousand_letters_a_call(node: Bridge) -> None:
    with pytest.raises(Invalid):
        await node.dead.discard(["0-1-1"] * 1001)


async def test_a_foreign_entry_put_back_dies_again_with_its_origin(fleet: Fleet, events: Recorder) -> None:
    bridge = await fleet.node()
    entry = await fleet.put("hello", "world")
    await events.wait_for(Buried)
    result = await bridge.dead.requeue([f"0-{entry}"], by="operator", reason="try")
    await events.wait_for_many(2, Buried, code="undecodable")
    letter = await bridge.dead.get(str(result.done[0][1]))
    assert letter is not None
    assert dict(zip(letter.fields[::2], letter.fields[1::2], strict=True))[b"origin"] == f"0-{entry}".encode()


async def test_putting_back_counts_towards_the_backlog(fleet: Fleet, desk: Desk, events: Recorder) -> None:
    bridge = await fleet.node()
    entry = await fleet.put("hello", "world")
    await events.wait_for(Buried)
    await fleet.leave("node-a")
    full = await fleet.bridge(backlog_limit=1)
    await do(full)
    assert (await full.dead.requeue([f"0-{entry}"], by="o", reason="r")).skipped == [(f"0-{entry}", "overloaded")]
    assert (await bridge.dead.get(f"0-{entry}")) is not None
