"""How often somebody may guess: after a few failures each further try waits longer, by name and by address."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

FREE_FAILURES = 5  # tries that cost no wait
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0  # doubling in between
FORGOTTEN_AFTER_S = 900.0  # without another failure
MAX_KNOWN = 20_000  # names and addresses; beyond it those that failed longest ago are forgotten
AT_HOME_S = 30 * 86_400.0  # an address is known as an operator's own, since the last login there


@dataclass(slots=True)
class _Failures:
    count: int
    last: float

    def wait_s(self, now: float) -> float:
        if self.count < FREE_FAILURES:
            return 0.0
        wait: float = min(FIRST_WAIT_S * 2 ** min(self.count - FREE_FAILURES, 30), LONGEST_WAIT_S)
        return max(0.0, self.last + wait - now)


class Throttle:
    """Failures by key; each process counts its own.

    Keys that have to wait are kept apart from those that do not yet, each up to half of
    ``MAX_KNOWN``: a flood of single failures makes nobody forget a name that is guessed at.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free: OrderedDict[str, _Failures] = OrderedDict()
        self._waiting: OrderedDict[str, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._free) + len(self._waiting)

    def wait_s(self, *keys: str) -> float:
        """Seconds until any of these may try again; 0 = now."""
        now = self._clock()
        return max((self._get(key, now).wait_s(now) for key in keys), default=0.0)

    def failed(self, *keys: str) -> None:
        now = self._clock()
        for key in keys:
            failures = self._get(key, now)
            failures.count, failures.last = failures.count + 1, now
            self.succeeded(key)
            kept = self._free if failures.count < FREE_FAILURES else self._waiting
            kept[key] = failures
            if len(kept) > MAX_KNOWN // 2:
                kept.popitem(last=False)

    def succeeded(self, key: str) -> None:
        self._free.pop(key, None)
        self._waiting.pop(key, None)

    def _get(self, key: str, now: float) -> _Failures:
        failures = self._waiting.get(key) or self._free.get(key)
        if failures is None or now - failures.last > FORGOTTEN_AFTER_S:
            return _Failures(0, now)
        return failures


def network(address: str) -> str:
    """What counts as one address: of IPv6 a /64, as that is what a single machine is given."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((int(parsed), 64), strict=False))


class Logins:
    """What counts as a guess of one and the same: by address, and by name.

    Where an operator has logged in before, the name counts apart: whoever guesses it
    elsewhere, from however many addresses, does not keep its owner out.
    """

    def __init__(self, throttle: Throttle, clock: Callable[[], float] = time.monotonic) -> None:
        self.throttle, self._clock = throttle, clock
        self._homes: OrderedDict[tuple[str, str], float] = OrderedDict()

    def keys(self, name: str, address: str) -> tuple[str, str]:
        """What this try counts for."""
        at = network(address)
        return f"address {at}", f"name {name} at {at}" if self.at_home(name, address) else f"name {name}"

    def at_home(self, name: str, address: str) -> bool:
        """Whether this operator has logged in there before."""
        since = self._homes.get((name, network(address)))
        return since is not None and self._clock() - since < AT_HOME_S

    def succeeded(self, name: str, address: str) -> None:
        """This is where they log in; failures so far are forgotten."""
        for key in self.keys(name, address):
            self.throttle.succeeded(key)
        home = name, network(address)
        self._homes[home] = self._clock()
        self._homes.move_to_end(home)
        while len(self._homes) > MAX_KNOWN:
            self._homes.popitem(last=False)


class Allowance:
    """So many a second, and so many at once; what is over it is turned away."""

    def __init__(self, per_s: float, at_once: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._at_once, self._clock = per_s, at_once, clock
        self._left, self._at = at_once, clock()

    def take(self) -> bool:
        now = self._clock()
        self._left = min(self._at_once, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
