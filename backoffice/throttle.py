"""How often somebody may guess: after a few failures each further try waits longer, by name and by address."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE_FAILURES = 5  # tries that cost no wait
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0  # doubling in between
FORGOTTEN_AFTER_S = 900.0  # without another failure
MAX_KNOWN = 20_000  # names and addresses; beyond it the one that failed longest ago is forgotten
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
    """Failures by key; each process counts its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, _Failures] = OrderedDict()

    def wait_s(self, *keys: str) -> float:
        """Seconds until any of these may try again; 0 = now."""
        now = self._clock()
        return max((self._get(key, now).wait_s(now) for key in keys), default=0.0)

    def failed(self, *keys: str) -> None:
        now = self._clock()
        for key in keys:
            failures = self._get(key, now)
            failures.count, failures.last = failures.count + 1, now
            self._known[key] = failures
            self._known.move_to_end(key)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def succeeded(self, key: str) -> None:
        self._known.pop(key, None)

    def _get(self, key: str, now: float) -> _Failures:
        failures = self._known.get(key)
        if failures is None or now - failures.last > FORGOTTEN_AFTER_S:
            return _Failures(0, now)
        return failures


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
        since = self._homes.get((name, address))
        home = since is not None and self._clock() - since < AT_HOME_S
        return f"address {address}", f"name {name} at {address}" if home else f"name {name}"

    def succeeded(self, name: str, address: str) -> None:
        """This is where they log in; failures so far are forgotten."""
        for key in self.keys(name, address):
            self.throttle.succeeded(key)
        self._homes[name, address] = self._clock()
        self._homes.move_to_end((name, address))
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
