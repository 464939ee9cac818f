"""Which role somebody has by a claim of the login provider: ``groups:chat-mods=moderator,chat-admins=admin``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backoffice.operators import Role
from bridge.errors import Misconfigured

_FORM = re.compile(r"((?:https?://)?[^:=,]+):(.+)")  # some providers name claims by URL


@dataclass(frozen=True, slots=True)
class Groups:
    """A claim, and the role that each of its values gives."""

    claim: str
    roles: Mapping[str, Role]

    @classmethod
    def parse(cls, text: str) -> Groups:
        """Raises Misconfigured."""
        form = _FORM.fullmatch(text.strip())
        if form is None:
            raise Misconfigured("write CLAIM:GROUP=ROLE,GROUP=ROLE, as in groups:chat-mods=moderator,chat-admins=admin")
        roles: dict[str, Role] = {}
        for entry in form[2].split(","):
            group, _, role = (part.strip() for part in entry.rpartition("="))
            if not group:
                raise Misconfigured(f"{entry.strip()!r}: write GROUP=ROLE")
            if role not in map(str, Role):
                raise Misconfigured(f"{entry.strip()!r}: role {role!r} is none of {', '.join(map(str, Role))}")
            if group in roles:
                raise Misconfigured(f"group {group!r} is there twice")
            roles[group] = Role[role.upper()]
        return cls(form[1].strip(), roles)

    def role(self, claims: Mapping[str, Any]) -> Role | None:
        """The greatest role of the claim's values, one or a list; None: they give none."""
        value = claims[self.claim] if self.claim in claims else self._within(claims)
        values = value if isinstance(value, list) else [value]
        return max((self.roles[each] for each in values if isinstance(each, str) and each in self.roles), default=None)

    def _within(self, claims: Any) -> Any:
        """Points lead into objects, as in ``realm_access.roles``."""
        for part in self.claim.split("."):
            if not isinstance(claims, Mapping):
                return None
            claims = claims.get(part)
        return claims
