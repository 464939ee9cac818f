"""How much a client may send, and which words it may not: both can change while the node runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bridge.errors import Misconfigured

MAX_WORDS_BYTES: Final = 1 << 20
BURST_S: Final = 2.0  # a user's messages of so long may come at once after a pause, and a pause need not be longer


class Bucket:
    """A token bucket: ``rate`` a second, and ``burst`` at once after a pause."""

    __slots__ = ("_left", "asked_at")

    def __init__(self) -> None:
        self._left = 0.0
        self.asked_at = float("-inf")  # so it is full at first use

    def take(self, now: float, *, rate: float, burst: float) -> float:
        """Take one; 0 if there was one, else the seconds until there is."""
        self._left = min(self._left + (now - self.asked_at) * rate, burst)
        self.asked_at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / rate


@dataclass(frozen=True, slots=True)
class Words:
    """Words that are not said here: one a line, ``#`` begins a comment; whole words, in any case."""

    pattern: re.Pattern[str] | None = None

    @classmethod
    def read(cls, path: Path | None) -> Words:
        """Raises Misconfigured."""
        if path is None:
            return cls()
        try:
            if path.stat().st_size > MAX_WORDS_BYTES:
                raise Misconfigured(f"CHATSERVER_WORDS_FILE {path} has more than {MAX_WORDS_BYTES} bytes")
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"CHATSERVER_WORDS_FILE {path} cannot be read: {error}") from error
        words = [word for line in text.splitlines() if (word := line.partition("#")[0].strip())]
        # Longest first; a word that begins or ends with a sign has no word boundary there.
        parts = sorted((re.escape(word.casefold()) for word in words), key=len, reverse=True)
        return cls(re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)") if parts else None)

    def found_in(self, text: str) -> bool:
        return self.pattern is not None and self.pattern.search(text.casefold()) is not None


@dataclass(slots=True)
class Limits:
    """What the node allows now; ``config.reload`` replaces the values."""

    messages_per_s: float
    text_chars: int
    words: Words = field(default_factory=Words)

    @property
    def frames_per_s(self) -> float:
        """Of any kind, pings included: what a client that says as much as it may can need."""
        return 50 + 2 * self.messages_per_s
