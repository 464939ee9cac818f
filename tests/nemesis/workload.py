"""What operators and programs do meanwhile: numbered commands, sanctions, notices, poison, and requeues."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from bridge.client import Bridge
from bridge.errors import BridgeError
from bridge.rest import NotAnswered, Refused, RestApi
from tests.faults.pace import elapsed
from tests.nemesis.clock import Clock
from tests.nemesis.history import GARBAGE, History, Issued, Sanction

AGAIN_S, GIVE_UP_S = 0.1, 15.0
SLOW_EVERY, SLOW_S = 4, 0.1  # so that nodes have something in their hands
HOLD_S, FREE_S = (0.6, 2.0), (0.3, 1.0)  # of a sanction, and until the next
UNKNOWN = frozenset({"overloaded", "unavailable", "rate_limited", "not_replicated"})  # repeat with the same key


class Workload:
    """Issues commands through the API, some through the library, and notes what became of each."""

    def __init__(self, api: RestApi, bridge: Bridge, history: History, clock: Clock, seed: str) -> None:
        self.api, self.bridge = api, bridge
        self._history, self._clock, self._seed = history, clock, seed
        self._keys = 0
        self.accepted = 0

    async def numbers(self, subject: str, *, every_s: float, library: bool = False) -> None:
        """Numbered commands of one subject; the next is sent when the one before was accepted."""
        chance = random.Random(f"{self._seed} {subject}")
        n, due = 0, self._clock.now() + chance.uniform(0, every_s)
        while not await self._clock.pause(due - self._clock.now()):
            payload = {"n": n, "seconds": 0 if n % SLOW_EVERY else SLOW_S}
            await self.issue("nemesis.add", subject, payload, n=n, library=library)
            due = max(due + every_s, self._clock.now())
            n += 1

    async def sanctions(self, user: str, room: str) -> None:
        """Mute, ban or kick one user again and again."""
        chance = random.Random(f"{self._seed} sanctions {user}")
        while not await self._clock.pause(chance.uniform(*FREE_S)):
            kind = chance.choice(("member.mute", "user.mute", "member.ban", "user.ban", "member.kick", "user.kick"))
            scope, action = kind.split(".")
            subject, payload = (f"room:{room}", {"user": user}) if scope == "member" else (f"user:{user}", {})
            issued = await self.issue(kind, subject, payload)
            if action == "kick" or await self.ended(issued) != "done":
                continue
            done = self._clock.now()
            await self._clock.pause(chance.uniform(*HOLD_S))
            lifted = self._clock.now()
            where = room if scope == "member" else None
            self._history.sanctions.append(Sanction(kind, user, where, done, lifted))
            await self.ended(await self.issue(f"{scope}.un{action}", subject, payload))

    async def freezes(self, room: str) -> None:
        """Freeze a room, and open it again."""
        chance = random.Random(f"{self._seed} freezes {room}")
        while not await self._clock.pause(chance.uniform(*FREE_S)):
            if await self.ended(await self.issue("room.freeze", f"room:{room}", {})) != "done":
                continue
            done = self._clock.now()
            await self._clock.pause(chance.uniform(*HOLD_S))
            self._history.sanctions.append(Sanction("room.freeze", None, room, done, self._clock.now()))
            await self.ended(await self.issue("room.unfreeze", f"room:{room}", {}))

    async def notices(self, rooms: list[str], *, every_s: float) -> None:
        """Notices that stay, and broadcasts that do not."""
        chance = random.Random(f"{self._seed} notices")
        n = 0
        while not await self._clock.pause(every_s):
            n += 1
            text = {"text": f"notice #{n}", "level": "info"}
            await self.issue("notice.post", f"room:{chance.choice(rooms)}", text)
            await self._broadcast("notice.flash", {"text": "flash", "level": "info"})
            await self._broadcast("config.reload", {})

    async def poison(self, subject: str, *, every_s: float) -> None:
        """Commands that always fail, which are sent again with another payload once they are dead letters."""
        n = 0
        while not await self._clock.pause(every_s):
            failing = await self.issue(
                "nemesis.fail", subject, {"n": n}, expected="dead attempts_used_up", library=False
            )
            if await self.ended(failing) == "dead":
                await self._requeue(failing, n)
            n += 1

    async def garbage(self, *, every_s: float) -> None:
        """Entries that nobody can read, past the append script."""
        n = 0
        while not await self._clock.pause(every_s):
            shard = n % self.bridge.shards
            n += 1
            try:
                id = await self.bridge.redis.call(
                    "XADD", self.bridge.keys.commands(shard), "*", "v", "1", "type", GARBAGE, "payload", "{"
                )
            except BridgeError:
                continue
            public = f"{shard}-{id.decode()}"
            self._history.issued.append(
                Issued(GARBAGE, f"shard {shard}", self._clock.now(), id=public, accepted=self._clock.now(),
                       expected="dead undecodable", raw=True)
            )  # fmt: skip

    async def issue(
        self, type: str, subject: str, payload: Mapping[str, Any], *, n: int | None = None,
        expected: str = "done", library: bool = False,
    ) -> Issued:  # fmt: skip
        """Until it is accepted, or the run is over and its outcome is unknown."""
        self._keys += 1
        key = f"k{self._keys}"
        issued = Issued(type, subject, self._clock.now(), n, expected=expected)
        self._history.issued.append(issued)
        while True:
            try:
                if library:
                    receipt = await self.bridge.publish(type, subject, payload, by="library", idempotency_key=key)
                    issued.id = receipt.id
                else:
                    body = {"type": type, "subject": subject, "payload": payload}
                    answer = await self.api.call("POST", "/commands", body, headers={"Idempotency-Key": key})
                    issued.id = answer["id"]
            except Refused as refused:
                if refused.code not in UNKNOWN and refused.status < 500:
                    raise
            except (NotAnswered, BridgeError):
                pass
            else:
                issued.accepted = self._clock.now()
                self.accepted += 1
                return issued
            await elapsed(AGAIN_S)
            if self._clock.over.is_set() and self._clock.now() > issued.sent + GIVE_UP_S:
                return issued

    async def ended(self, issued: Issued, timeout: float = 30) -> str | None:
        """What it ended as; None if that is not known in time."""
        try:
            async with asyncio.timeout(timeout):
                while issued.id:
                    try:
                        outcome = await self.bridge.outcome(issued.id, wait=5)
                    except BridgeError:
                        await elapsed(AGAIN_S)
                        continue
                    if outcome is None:  # lost with a primary
                        return None
                    if outcome.ended:
                        return outcome.state
        except TimeoutError:
            pass
        return None

    async def _requeue(self, dead: Issued, n: int) -> None:
        issued = Issued("nemesis.fail", dead.subject, self._clock.now(), n)
        self._history.issued.append(issued)
        body = {"ids": [dead.id], "reason": "cured", "payload": {"n": n, "cured": True}}
        for _ in range(100):
            try:
                answer = await self.api.call("POST", "/dead/requeue", body)
            except (NotAnswered, Refused):
                await elapsed(AGAIN_S)
                continue
            ids = [moved["new_id"] for moved in answer["done"]]
            if not ids:  # a try whose answer was lost did it
                ids = [view["requeued_as"]] if (view := await self._letter(dead.id)) else []
            if ids and ids[0]:
                issued.id, issued.accepted = ids[0], self._clock.now()
                await self.ended(issued)
            return

    async def _letter(self, id: str) -> dict[str, Any] | None:
        try:
            letter: dict[str, Any] = await self.api.call("GET", f"/dead/{id}")
        except (NotAnswered, Refused):
            return None
        return letter

    async def _broadcast(self, type: str, payload: dict[str, Any]) -> None:
        try:
            await self.api.call("POST", "/broadcasts", {"type": type, "scope": "all", "payload": payload})
        except (NotAnswered, Refused):
            pass
