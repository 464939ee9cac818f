"""Which web pages may connect: a page's script cannot forge its Origin, and programs send none."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from websockets.datastructures import Headers

ANY = "*"
NONE = "none"  # programs only


def lets_in(named: Collection[str], headers: Headers) -> bool:
    """Whether the sender of a handshake may connect.

    Where no origin is named, pages of the node's own address may, whichever scheme a proxy before it speaks.
    """
    origins, hosts = headers.get_all("Origin"), headers.get_all("Host")
    if not origins or ANY in named:
        return True
    if len(origins) > 1 or len(hosts) != 1:
        return False
    [origin], [host] = origins, hosts
    return _is_own(origin, host) if not named else origin in named and origin != NONE


def _is_own(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False
