"""Lua scripts, one verb a file. A line ``--!include NAME`` stands for ``NAME.lua`` of this folder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Self

_HERE = Path(__file__).parent
_INCLUDE = re.compile(r"^--!include (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the hash that Redis knows it by."""

    name: str
    source: str = field(repr=False)
    sha: str = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a script file and what it includes, each include once. Raises FileNotFoundError."""
        source = _expand(path.read_text(), set())
        return cls(path.stem, source, sha1(source.encode(), usedforsecurity=False).hexdigest())


def _expand(source: str, seen: set[str]) -> str:
    def include(match: re.Match[str]) -> str:
        if match[1] in seen:
            return ""
        seen.add(match[1])
        return _expand((_HERE / f"{match[1]}.lua").read_text(), seen)

    return _INCLUDE.sub(include, source)


@cache
def script(name: str) -> Script:
    """A script of this folder."""
    return Script.load(_HERE / f"{name}.lua")
