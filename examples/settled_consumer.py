"""A consumer group of one's own on the record of ended commands, with nothing but redis-py.

Run: BRIDGE_REDIS_URL=redis://… .venv/bin/python examples/settled_consumer.py

For one server by redis://, rediss:// or unix://, as redis-py reads the address by itself; with Sentinel or a Cluster
make the client of their classes.

Every ended command is on `chat:{shard}:settled` with its outcome. The group remembers how far it has
come, and an entry is read again until it is acknowledged: what is done with it must bear being done
twice, for which its id is the key. The streams are capped, so a group that stays away for long misses some.
"""

import asyncio
import json
import os
import signal
import socket
from collections import Counter

from redis.asyncio import Redis
from redis.exceptions import ResponseError

NAMESPACE, GROUP, CONSUMER = os.environ.get("BRIDGE_NAMESPACE", "chat"), "analytics", socket.gethostname()


async def main() -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # what was read is finished and acknowledged first
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with Redis.from_url(os.environ["BRIDGE_REDIS_URL"], decode_responses=True) as redis:
        shards = int(await redis.hget(f"{NAMESPACE}:{{meta}}", "shards"))
        streams = [f"{NAMESPACE}:{{{shard}}}:settled" for shard in range(shards)]
        await asyncio.gather(*(create_group(redis, stream) for stream in streams))
        seen: Counter[tuple[str, str]] = Counter()
        since = "0"  # first what an earlier run read and did not acknowledge, then what is new
        while not stopping.is_set():
            if not await step(redis, dict.fromkeys(streams, since), seen):
                since = ">"


async def create_group(redis: Redis, stream: str) -> None:
    try:
        await redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):  # it is there from an earlier run
            raise


async def step(redis: Redis, since: dict[str, str], seen: Counter[tuple[str, str]]) -> bool:
    """Read, use and acknowledge once; whether anything was there."""
    answer = await redis.xreadgroup(GROUP, CONSUMER, since, count=100, block=1000)
    for stream, entries in answer:
        for entry_id, fields in entries:
            outcome = json.loads(fields["outcome"])
            kind = outcome["type"], outcome["state"]
            seen[kind] += 1
            print(f"{outcome['id']} {kind[0]} {outcome['subject']} {kind[1]} (the {seen[kind]}. such)", flush=True)
            await redis.xack(stream, GROUP, entry_id)
    return any(entries for _, entries in answer)


if __name__ == "__main__":
    asyncio.run(main())
