"""Which shards are mine: compare what this node holds with what it ought to hold, acquire and release."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf

from bridge.errors import BridgeError, Fenced
from bridge.keys import Keys
from bridge.shard_stream import Lease, Occupied, ShardStream
from bridge.shards import ranking, wanted
from bridge.subscriptions import Subscription, Subscriptions
from bridge.telemetry import Acquired, Released, Telemetry
from bridge.worker import Worker

FREE_TOO_LONG_S = 1.0  # a lease nobody wants to take may be taken by others then,
_PER_RANK_S = 0.3  # one after the other in rendezvous order
_STOPGAP_S = 10.0  # how long such a shard is kept although another node ought to have it

_DISPLACE_AGAIN_S = 0.1  # a renewal of one that vanished was still under way

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
        self._vanished: Mapping[str, float] = {}
        self._renewed_at = 0.0
        self._renewals: dict[int, asyncio.Task[None]] = {}  # under way; a primary that is away is not asked twice

    @property
    def workers(self) -> Collection[Worker]:
        return self._workers.values()

    async def step(self, members: Sequence[str], vanished: Mapping[str, float]) -> float:
        """Give up what this node ought not to hold, take what it ought to and what nobody takes.

        Leases of nodes that ``vanished`` are not waited for; the values are the loop times since which they are silent.

        Returns seconds until another look is worth it: when the lease of a node that is gone runs out.
        What a primary that is away has of it is reported in the end, and the rest is done.
        """
        faults: list[BaseException] = []
        now = asyncio.get_running_loop().time()
        mine = wanted(self._node, members, len(self._streams))
        for shard, worker in self._workers.items():
            if shard not in mine and now >= self._stopgap_until.get(shard, 0):
                worker.drain()
        self._vanished = vanished
        occupied = await self._acquire([shard for shard in mine if shard not in self._workers], faults)
        if self._node in members:
            await self._take_orphans(members, now, faults)
        if faults:
            raise faults[0]
        if any(other.by in vanished for other in occupied):
            return _DISPLACE_AGAIN_S
        return min((other.for_s for other in occupied if other.by not in members), default=inf)

    async def renew_overdue(self, after_s: float) -> None:
        """Renew unless that was done within the last ``after_s`` seconds."""
        if asyncio.get_running_loop().time() - self._renewed_at >= after_s:
            await self.renew(after_s)

    async def renew(self, within_s: float) -> None:
        """Hold every lease for longer, while draining too: if one lapsed, another node would redo what we finish.

        Returns after ``within_s`` at the latest: a primary that does not answer must not let other leases lapse.
        """
        loop = asyncio.get_running_loop()
        self._renewed_at = loop.time()
        workers = list(self._workers.values())
        for worker in workers:
            if worker.shard not in self._renewals:
                renewal = loop.create_task(self._renew(worker), name=f"renew-{worker.shard}")
                self._renewals[worker.shard] = renewal
        if self._renewals:
            await asyncio.wait(list(self._renewals.values()), timeout=within_s)

    async def _renew(self, worker: Worker) -> None:
        lease = worker.lease
        try:
            await self._streams[worker.shard].renew(lease)
        except Fenced as error:
            if worker.lease is lease:
                worker.fail(error)
        except BridgeError:  # whoever needs the shard hears of it; the next renewal is soon
            pass
        finally:
            del self._renewals[worker.shard]

    async def drain(self) -> None:
        """Give up everything, in good order; returns when all workers have ended."""
        for worker in self._workers.values():
            worker.drain()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def abandon(self) -> None:
        """Stop at once, leaving the leases to run out."""
        tasks = [*self._tasks.values(), *self._renewals.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _acquire(self, shards: Sequence[int], faults: list[BaseException]) -> list[Occupied]:
        leases = await asyncio.gather(*map(self._acquire_one, shards), return_exceptions=True)
        faults += [lease for lease in leases if isinstance(lease, BaseException)]
        return [lease for lease in leases if isinstance(lease, Occupied)]

    async def _acquire_one(self, shard: int) -> Lease | Occupied:
        stream = self._streams[shard]
        answer = await stream.acquire(self._owner)
        if isinstance(answer, Occupied) and answer.by in self._vanished:
            silent_s = asyncio.get_running_loop().time() - self._vanished[answer.by]
            answer = await stream.acquire(self._owner, instead_of=answer.token, silent_s=silent_s)
        if isinstance(answer, Lease):  # begun at once: another shard's primary may keep the rest waiting
            self._begin(shard, answer)
        return answer

    async def _take_orphans(self, members: Sequence[str], now: float, faults: list[BaseException]) -> None:
        """Lists of nodes have blind spots: a lease that stays free is taken by the next in rendezvous order."""
        others = [shard for shard in range(len(self._streams)) if shard not in self._workers]
        holders = await asyncio.gather(*(self._streams[s].holder() for s in others), return_exceptions=True)
        faults += [holder for holder in holders if isinstance(holder, BaseException)]
        free = {shard for shard, holder in zip(others, holders, strict=True) if holder is None}
        self._free_since = {shard: self._free_since.get(shard, now) for shard in free}
        overdue = []
        for shard, since in self._free_since.items():
            rank = ranking(shard, members).index(self._node)
            if rank and now - since > FREE_TOO_LONG_S + rank * _PER_RANK_S:
                overdue.append(shard)
                self._stopgap_until[shard] = now + _STOPGAP_S
        await self._acquire(overdue, faults)

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
