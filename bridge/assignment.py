"""Which shards are mine: compare what this node holds with what it ought to hold, acquire and release."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from math import inf

from bridge.errors import Fenced
from bridge.keys import Keys
from bridge.shard_stream import Lease, Occupied, ShardStream
from bridge.shards import ranking, wanted
from bridge.subscriptions import Subscription, Subscriptions
from bridge.telemetry import Acquired, Released, Telemetry
from bridge.worker import Worker

FREE_TOO_LONG_S = 1.0  # a lease nobody wants to take may be taken by others then,
_PER_RANK_S = 0.3  # one after the other in rendezvous order
_STOPGAP_S = 10.0  # how long such a shard is kept although another node ought to have it

MakeWorker = Callable[[ShardStream, Lease], Worker]


class Assignment:
    """The shards of one node. ``step`` is called with the nodes that take part, after every heartbeat."""

    def __init__(
        self,
        node: str,
        owner: str,
        streams: Sequence[ShardStream],
        *,
        keys: Keys,
        subscriptions: Subscriptions,
        make_worker: MakeWorker,
        released: Callable[[], None],
        telemetry: Telemetry,
    ) -> None:
        self._node, self._owner, self._streams, self._keys = node, owner, streams, keys
        self._subscriptions, self._make_worker, self._telemetry = subscriptions, make_worker, telemetry
        self._released = released  # called after every shard given up
        self._workers: dict[int, Worker] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._rings: dict[int, Subscription] = {}
        self._free_since: dict[int, float] = {}
        self._stopgap_until: dict[int, float] = {}
        self._renewed_at = 0.0

    @property
    def workers(self) -> Collection[Worker]:
        return self._workers.values()

    async def step(self, members: Sequence[str]) -> float:
        """Give up what this node ought not to hold, take what it ought to and what nobody takes.

        Returns seconds until another look is worth it: when the lease of a node that is gone runs out.
        """
        now = asyncio.get_running_loop().time()
        mine = wanted(self._node, members, len(self._streams))
        for shard, worker in self._workers.items():
            if shard not in mine and now >= self._stopgap_until.get(shard, 0):
                worker.drain()
        occupied = await self._acquire([shard for shard in mine if shard not in self._workers])
        if self._node in members:
            await self._take_orphans(members, now)
        return min((other.for_s for other in occupied if other.by not in members), default=inf)

    async def renew_overdue(self, after_s: float) -> None:
        """Renew unless that was done within the last ``after_s`` seconds."""
        if asyncio.get_running_loop().time() - self._renewed_at >= after_s:
            await self.renew()

    async def renew(self) -> None:
        """Hold every lease for longer, while draining too: if one lapsed, another node would redo what we finish."""
        self._renewed_at = asyncio.get_running_loop().time()
        workers = list(self._workers.values())
        renewals = (self._streams[worker.shard].renew(worker.lease) for worker in workers)
        leases = [worker.lease for worker in workers]
        answers = await asyncio.gather(*renewals, return_exceptions=True)
        for worker, lease, answer in zip(workers, leases, answers, strict=True):
            if isinstance(answer, Fenced) and worker.lease is lease:
                worker.fail(answer)

    async def drain(self) -> None:
        """Give up everything, in good order; returns when all workers have ended."""
        for worker in self._workers.values():
            worker.drain()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def abandon(self) -> None:
        """Stop at once, leaving the leases to run out."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _acquire(self, shards: Sequence[int]) -> list[Occupied]:
        leases = await asyncio.gather(*(self._streams[s].acquire(self._owner) for s in shards), return_exceptions=True)
        for shard, lease in zip(shards, leases, strict=True):
            if isinstance(lease, Lease):
                self._begin(shard, lease)
        for lease in leases:
            if isinstance(lease, BaseException):
                raise lease
        return [lease for lease in leases if isinstance(lease, Occupied)]

    async def _take_orphans(self, members: Sequence[str], now: float) -> None:
        """Lists of nodes have blind spots: a lease that stays free is taken by the next in rendezvous order."""
        others = [shard for shard in range(len(self._streams)) if shard not in self._workers]
        holders = await asyncio.gather(*(self._streams[shard].holder() for shard in others))
        free = {shard for shard, holder in zip(others, holders, strict=True) if holder is None}
        self._free_since = {shard: self._free_since.get(shard, now) for shard in free}
        overdue = []
        for shard, since in self._free_since.items():
            rank = ranking(shard, members).index(self._node)
            if rank and now - since > FREE_TOO_LONG_S + rank * _PER_RANK_S:
                overdue.append(shard)
                self._stopgap_until[shard] = now + _STOPGAP_S
        await self._acquire(overdue)

    def _begin(self, shard: int, lease: Lease) -> None:
        worker = self._workers[shard] = self._make_worker(self._streams[shard], lease)
        task = asyncio.get_running_loop().create_task(self._attend(worker), name=f"shard-{shard}")
        self._tasks[shard] = task
        self._free_since.pop(shard, None)
        self._telemetry.emit(Acquired(self._node, shard, lease.epoch))

    async def _attend(self, worker: Worker) -> None:
        """A worker's life, with the subscription that wakes it."""
        shard = worker.shard
        ringing = asyncio.get_running_loop().create_task(self._hear(worker), name=f"ring-{shard}")
        try:
            await worker.run()
        finally:
            ringing.cancel()
            subscription = self._rings.pop(shard, None)
            if subscription is not None:
                self._subscriptions.unsubscribe(subscription)
            del self._workers[shard], self._tasks[shard]
            self._stopgap_until.pop(shard, None)
            self._telemetry.emit(Released(self._node, shard))
            self._released()

    async def _hear(self, worker: Worker) -> None:
        # Not awaited before the worker begins: its poll works without, when Redis' other connection lags.
        self._rings[worker.shard] = await self._subscriptions.subscribe(
            self._keys.ring(worker.shard), lambda _: worker.ring(), on_gap=worker.ring
        )
        worker.ring()
