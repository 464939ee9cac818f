"""Where the primary of a service is that sentinels watch, and what they say while they replace it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bridge.errors import BridgeError, Misconfigured, ServerError, Unreachable
from bridge.hearing import Hearing
from bridge.link import Endpoint, Link
from bridge.topology import BELIEVED_AFTER_S, Doubt, Placement, call_apart, complaint, first_answers

RESTLESS_S = 3.0  # after the last word of a sentinel about its primary
UNCONFIRMED_S = 2.5  # a promotion that its sentinel does not see: it looks at each replica once a second meanwhile
UNCONFIRMED_KEPT_S = 1.5  # where nobody says so any more
LISTEN_AGAIN_S = 60.0  # to one that has refused it
OTHERS_S = 0.1  # for the sentinel that replaces the primary, which knows more than the majority that has answered
_PROMOTING = (b"+selected-slave", b"+failover-", b"+promoted-slave", b"+slave-reconf-")


@dataclass(frozen=True, slots=True, order=True)
class _Named:
    """What a sentinel says; the largest is the newest."""

    epoch: int
    promoted: bool  # it is about to replace the one of this epoch
    address: tuple[str, int]
    confirmed: bool = field(default=True, compare=False)  # False: no sentinel has seen the promotion yet

    def is_older_than(self, other: _Named) -> bool:
        return (self.epoch, self.promoted) < (other.epoch, other.promoted) and self.address != other.address


@dataclass(frozen=True, slots=True)
class Watch:
    """How a sentinel watches over its service."""

    down_after_s: float  # until it takes a silent primary for lost
    replicas: int  # that it knows, with those that are away


class Sentinel:
    """The primary of one service. Most sentinels must have answered: one that was cut off names one of the past.

    A primary of the past may believe in itself for seconds, so only the newest that was named is asked to agree,
    and whoever names an older one than we have seen is not believed, unless that lasts.
    """

    fixed = False

    def __init__(self, sentinels: Sequence[Endpoint], service: str, like: Endpoint) -> None:
        self._sentinels, self._service, self._like = sentinels, service, like
        self._newest: _Named | None = None
        self._doubt = Doubt()
        self._restless_until = 0.0
        self._unconfirmed: tuple[_Named, float] | None = None  # and since when

    @property
    def restless(self) -> bool:
        return asyncio.get_running_loop().time() < self._restless_until

    async def look(self, timeout: float) -> Placement:
        answers, faults = await first_answers(
            [self._ask(sentinel, timeout) for sentinel in self._sentinels],
            enough=lambda answers: len(answers) > len(self._sentinels) // 2,
            others_s=OTHERS_S if self.restless else 0.0,
        )
        if not answers:
            raise complaint(f"no sentinel knows a primary of {self._service!r}", faults)
        if self._contradicts(max(answers)):
            raise Unreachable(f"the sentinels that answer have not heard of the fail-over of {self._service!r} yet")
        votes = Counter(answers)
        names = sorted(
            {named for named in answers if named.epoch == max(answers).epoch},
            key=lambda named: (named.promoted, votes[named]),
        )
        agreeing, faults = await first_answers(
            [self._confirm(named, timeout) for named in names],
            enough=lambda agreeing: any(named == names[-1] for named, _ in agreeing),
        )
        if not agreeing:
            raise Unreachable("; ".join(map(str, faults)))
        self._newest, endpoint = max(agreeing, key=lambda agreed: names.index(agreed[0]))
        return Placement((endpoint,))

    async def watches(self, timeout: float) -> list[Watch]:
        """Of all sentinels that answer."""
        call = ("SENTINEL", "MASTER", self._service)
        answers, _ = await first_answers([call_apart(sentinel, timeout, call) for sentinel in self._sentinels])
        return [Watch(int(facts[b"down-after-milliseconds"]) / 1000, int(facts[b"num-slaves"])) for (facts,) in answers]

    async def listen(
        self, heard: Callable[[], None], *, complain: Callable[[BridgeError], None], timeout: float
    ) -> None:
        """They tell each step of a fail-over, and what they think of the servers, to whoever subscribes."""
        async with asyncio.TaskGroup() as listening:
            for sentinel in self._sentinels:
                listening.create_task(self._listen_to(sentinel, heard, complain, timeout), name=f"listen-{sentinel}")

    async def _listen_to(
        self,
        sentinel: Endpoint,
        heard: Callable[[], None],
        complain: Callable[[BridgeError], None],
        timeout: float,
    ) -> None:
        complained = False

        def told(push: list[Any]) -> None:
            if push[0] == b"pmessage" and self._is_about_the_primary(push[2], push[3].split(b" ")):
                self._restless_until = asyncio.get_running_loop().time() + RESTLESS_S
                heard()

        def subscribe(link: Link) -> None:
            link.write("PSUBSCRIBE", "*")
            heard()  # what was said before is missed

        def refused(error: BridgeError) -> bool:
            nonlocal complained
            hearing.end()  # its user may not subscribe: it is asked each second, as ever
            if not complained:
                complain(error)
                complained = True
            return True

        while True:
            hearing = Hearing(sentinel, timeout=timeout, on_open=subscribe, on_push=told, on_refused=refused)
            await hearing.run()
            await asyncio.sleep(LISTEN_AGAIN_S)

    def _is_about_the_primary(self, event: bytes, words: list[bytes]) -> bool:
        """Not about a replica or a sentinel that comes or goes.

        https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/#sentinel-pubsub-events has the words.
        """
        name = self._service.encode()
        if event == b"+switch-master":
            return words[0] == name
        if words[0] == b"master":
            return words[1:2] == [name]
        return event.startswith(_PROMOTING) and words[4:6] == [b"@", name]

    def _contradicts(self, named: _Named) -> bool:
        """Whether to wait rather than to believe what is older than what we know."""
        newest = self._newest
        if newest is None:
            return False
        kept_s = BELIEVED_AFTER_S if newest.confirmed else UNCONFIRMED_KEPT_S
        return self._doubt.about(named.is_older_than(newest), kept_s)

    async def _ask(self, sentinel: Endpoint, timeout: float) -> _Named:
        try:
            found, facts = await call_apart(
                sentinel,
                timeout,
                ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service),
                ("SENTINEL", "MASTER", self._service),
            )
        except ServerError as error:
            if "No such master" in str(error):
                raise Misconfigured(f"{sentinel} watches no service {self._service!r}") from None
            if "unknown command" in str(error):
                raise Misconfigured(f"{sentinel} is no sentinel") from None
            raise
        address, epoch = (found[0].decode(), int(found[1])), int(facts[b"config-epoch"])
        before = facts[b"ip"].decode(), int(facts[b"port"])
        if address == before and b"failover_in_progress" in facts[b"flags"].split(b","):
            promoted = await self._promoted(sentinel, timeout)
            if promoted is not None and self._is_new(early := _Named(epoch, True, promoted, confirmed=False)):
                return early
        return _Named(epoch, address != before, address)

    def _is_new(self, early: _Named) -> bool:
        """Whether its sentinel may still see the promotion; one that does not goes back to the primary before."""
        now = asyncio.get_running_loop().time()
        if self._unconfirmed is None or self._unconfirmed[0] != early:
            self._unconfirmed = early, now
        return now - self._unconfirmed[1] < UNCONFIRMED_S

    async def _promoted(self, sentinel: Endpoint, timeout: float) -> tuple[str, int] | None:
        """The replica that this sentinel promotes, once that is one: it sees that up to a second later."""
        try:
            (replicas,) = await call_apart(sentinel, timeout, ("SENTINEL", "REPLICAS", self._service))
            for facts in replicas:
                if b"promoted" in facts[b"flags"].split(b","):
                    host, port = facts[b"ip"].decode(), int(facts[b"port"])
                    ((role, *_),) = await call_apart(self._at(host, port), timeout, ("ROLE",))
                    return (host, port) if role == b"master" else None
        except BridgeError:  # no right to ask, or no answer
            return None
        return None

    async def _confirm(self, named: _Named, timeout: float) -> tuple[_Named, Endpoint]:
        """The primary that a sentinel named; or to which that one has given its place, which sentinels see later."""
        endpoint = self._at(*named.address)
        ((role, *rest),) = await call_apart(endpoint, timeout, ("ROLE",))
        if role == b"slave":
            endpoint = self._at(rest[0].decode(), rest[1])
            ((role, *_),) = await call_apart(endpoint, timeout, ("ROLE",))
        if role != b"master":
            raise Unreachable(f"{endpoint} is not a primary (yet)")
        return named, endpoint

    def _at(self, host: str, port: int) -> Endpoint:
        return replace(self._like, host=host, port=port)
