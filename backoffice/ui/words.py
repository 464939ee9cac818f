"""What the pages say, in English and Korean. The English text is the key; ``korean`` has the other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from aiohttp import hdrs, web

from backoffice.ui.korean import KOREAN
from backoffice.ui.korean_codes import CODES

Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
COOKIE = "language"


def N_(text: str) -> str:  # noqa: N802 - gettext's name for a text that is translated where it is shown
    """Marks a text that is shown later."""
    return text


AGO = (N_("{n} s ago"), N_("{n} min ago"), N_("{n} h ago"), N_("{n} d ago"))
AHEAD = (N_("in {n} s"), N_("in {n} min"), N_("in {n} h"), N_("in {n} d"))
_ONE = re.compile(r"\{n\} ((?:dead )?\w+)s\b")  # English: one of them has no s
_UNITS = (1, 60, 3600, 86_400)


@dataclass(frozen=True, slots=True)
class Words:
    """One language. A text without a translation is shown in English."""

    language: Language

    def __call__(self, text: str, **values: Any) -> str:
        said = KOREAN.get(text, text) if self.language == "ko" else text
        if self.language == "en" and values.get("n") == 1:
            said = _ONE.sub(r"{n} \1", said)
        return said.format(**values) if values else said

    def code(self, kind: str, code: str) -> str | None:
        """What a code of the API means; None where its own English says it."""
        return CODES.get(f"{kind}:{code}") if self.language == "ko" else None

    @property
    def codes(self) -> Mapping[str, str]:
        """All that ``code`` knows."""
        return CODES if self.language == "ko" else {}

    def ago(self, time: str | datetime, now: datetime | None = None) -> str:
        """How long ago, or how far ahead, a time is."""
        at = datetime.fromisoformat(time) if isinstance(time, str) else time
        seconds = ((now or datetime.now(UTC)) - at).total_seconds()
        size = abs(seconds)
        unit = 0 if size < 90 else 1 if size < 5400 else 2 if size < 2 * 86_400 else 3
        texts = AGO if seconds >= -0.5 else AHEAD
        return self(texts[unit], n=round(size / _UNITS[unit]))

    def seconds(self, value: float | None) -> str:
        """A span of time, short."""
        if value is None:
            return "–"
        if value < 1:
            return f"{value * 1000:.0f} ms"
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min"


def words_for(request: web.BaseRequest) -> Words:
    """The language that the operator chose, else the first that the browser asks for and we have."""
    chosen = request.cookies.get(COOKIE)
    if chosen in LANGUAGES:
        return Words(chosen)
    for part in request.headers.get(hdrs.ACCEPT_LANGUAGE, "").split(","):
        name = part.split(";")[0].strip().lower()[:2]
        if name in LANGUAGES:
            return Words(name)
    return Words("en")
