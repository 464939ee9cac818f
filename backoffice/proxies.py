"""Where a request really comes from: its peer, or what a trusted proxy in front says of it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from aiohttp import hdrs, web
from yarl import URL

Network = IPv4Network | IPv6Network


class Proxies:
    """Networks whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""

    def __init__(self, trusted: Iterable[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    @classmethod
    def parse(cls, text: str) -> Proxies:
        """Addresses and networks, separated by commas. Raises ValueError."""
        return cls(ip_network(part.strip()) for part in text.split(",") if part.strip())

    def __bool__(self) -> bool:
        return bool(self._trusted)

    def address(self, request: web.BaseRequest) -> str:
        """The caller's address: the last one on the way that no trusted proxy has."""
        peer = request.remote or ""
        if not self._trusts(peer):
            return peer
        for hop in reversed(request.headers.get(hdrs.X_FORWARDED_FOR, "").split(",")):
            address = hop.strip()
            if not _is_address(address):
                break
            peer = address
            if not self._trusts(address):
                break
        return peer

    def is_https(self, request: web.BaseRequest) -> bool:
        """Whether the caller's side of the way is encrypted."""
        if request.secure:
            return True
        return self._trusts(request.remote or "") and request.headers.get(hdrs.X_FORWARDED_PROTO, "") == "https"

    def is_private(self, request: web.BaseRequest) -> bool:
        """Whether nobody on the way can read along: it is encrypted, or does not leave the browser's own machine."""
        if self.is_https(request):
            return True
        try:
            return is_loopback(URL(f"http://{request.host}").host or "")
        except ValueError:
            return False

    def _trusts(self, address: str) -> bool:
        return (
            bool(self._trusted)
            and _is_address(address)
            and any(ip_address(address) in network for network in self._trusted)
        )


def is_loopback(host: str) -> bool:
    """Whether this address or name is this machine's own, and nobody else's way here."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
