"""100 items for 150 users, while a node is killed: exactly 100 get one, exactly 50 are told that it is over.

Run: .venv/bin/python examples/giveaway.py    (`make venv` makes it; elsewhere the extra "demo" is needed)

A server and three nodes are started as processes. All users claim at once; when the first
claims are through, the node that handles them is killed. Another one takes over where it
stopped. The exit status is 1 if the figures differ.
"""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pydantic import BaseModel

from bridge import Bridge, Command, Effects, Outcome, Rejected, command, handles
from bridge.embedded import EmbeddedServer
from bridge.guard import guarded, needs_pipe

USERS, ITEMS, NODES = 150, 100, ("node-a", "node-b", "node-c")
KILL_AFTER = 30  # claims that have ended
STOCK = "stock:sword"


@command("giveaway.claim", subject="stock")
class Claim(BaseModel):
    user: str


@handles(Claim)
async def claim(command: Command[Claim]) -> Effects:
    """Plain reading, deciding and writing: commands of one subject never overlap, and each takes effect once."""
    given = int(await command.read("given") or 0)
    await asyncio.sleep(0.005)  # work, so that there is somebody to kill
    if given >= ITEMS:
        raise Rejected("all items are gone")
    return Effects().incr("given").hset("winners", command.payload.user, given + 1).result(number=given + 1)


async def serve(name: str) -> None:
    async with Bridge.connect(os.environ["BRIDGE_REDIS_URL"]) as bridge:
        print("connected", flush=True)
        await bridge.serve(name)


async def start_node(name: str, url: str) -> asyncio.subprocess.Process:
    """A node in a process of its own, which ends together with this one."""
    node = await asyncio.create_subprocess_exec(
        *guarded([sys.executable, __file__, "--node", name]),
        env={**os.environ, "BRIDGE_REDIS_URL": url},
        stdin=asyncio.subprocess.PIPE if needs_pipe() else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert node.stdout is not None
    await node.stdout.readline()
    return node


async def give_away(url: str) -> bool:
    nodes = dict(zip(NODES, await asyncio.gather(*(start_node(name, url) for name in NODES)), strict=True))
    async with Bridge.connect(url, timeout=10) as bridge:  # seconds: all of this shares one machine
        while {shard.holder for shard in await bridge.shard_infos()} != set(NODES):
            await asyncio.sleep(0.05)  # until every node has its part
        users = [f"user-{number}" for number in range(1, USERS + 1)]
        receipts = await asyncio.gather(
            *(bridge.publish("giveaway.claim", STOCK, {"user": u}, by=u, idempotency_key="sword") for u in users)
        )
        ends = [asyncio.create_task(bridge.outcome(receipt.id, wait=30)) for receipt in receipts]
        await asyncio.gather(*ends[:KILL_AFTER])
        victim = (await bridge.shard_infos())[bridge.shard_of(STOCK)].holder or ""
        nodes[victim].kill()
        killed_at = time.monotonic()
        outcomes = [outcome for outcome in await asyncio.gather(*ends) if outcome is not None]
        took_s = time.monotonic() - killed_at
        print(f"{victim} was killed after {KILL_AFTER} claims; all had ended {took_s:.1f} s later")
        right = await check(bridge, outcomes)
    for node in nodes.values():
        if node.returncode is None:
            node.send_signal(signal.SIGTERM)
    await asyncio.gather(*(node.wait() for node in nodes.values()))
    return right


async def check(bridge: Bridge, outcomes: list[Outcome]) -> bool:
    """Both sides of the books: what the users were told, and what Redis holds."""
    states, by = Counter(outcome.state for outcome in outcomes), Counter(outcome.node for outcome in outcomes)
    numbers = sorted(outcome.result["number"] for outcome in outcomes if outcome.result)
    shard = bridge.shard_of(STOCK)
    given = int(await bridge.redis.call("GET", bridge.keys.state(shard, STOCK, "given")))
    winners = await bridge.redis.call("HLEN", bridge.keys.state(shard, STOCK, "winners"))
    print(f"told:   {states['done']} done, {states['rejected']} rejected; handled by {dict(by)}")
    print(f"stored: {given} given to {winners} users")
    return (
        states == {"done": ITEMS, "rejected": USERS - ITEMS}
        and numbers == list(range(1, ITEMS + 1))
        and given == winners == ITEMS
    )


async def main() -> int:
    with tempfile.TemporaryDirectory(prefix="giveaway-") as directory:
        server = await EmbeddedServer.start(Path(directory))
        try:
            right = await give_away(server.url)
        finally:
            await server.stop()
    print("exactly as it should be" if right else f"WRONG: expected {ITEMS} done and {USERS - ITEMS} rejected")
    return 0 if right else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--node"]:
        asyncio.run(serve(sys.argv[2]))
    else:
        sys.exit(asyncio.run(main()))
