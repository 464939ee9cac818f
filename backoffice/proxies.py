"""Where a request really comes from: its peer, or what a trusted proxy in front says of it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import hdrs, web
from yarl import URL

Network = IPv4Network | IPv6Network
_FORWARDED = ("forwarded", "x-forwarded-")  # as the headers of proxies begin
_MAX_CHARS = 64  # of an address with brackets and port, as a proxy writes it


class Proxies:
    """Networks whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""

    def __init__(self, trusted: Iterable[Network] = (), *, published_here: bool = False) -> None:
        """``published_here``: who comes through a container's port comes from this machine, whatever their address."""
        self._trusted, self._published_here = tuple(trusted), published_here

    @classmethod
    def parse(cls, text: str, *, published_here: bool = False) -> Proxies:
        """Addresses and networks, separated by commas. Raises ValueError."""
        networks = (ip_network(part.strip()) for part in text.split(",") if part.strip())
        return cls(networks, published_here=published_here)

    def __bool__(self) -> bool:
        return bool(self._trusted)

    def address(self, request: web.BaseRequest) -> str:
        """The caller's address: the last one on the way that no trusted proxy has."""
        peer = request.remote or ""
        if not self._trusts(peer):
            return peer
        # Some proxies add a line of their own below what the caller made up: the last line is the nearest hop's.
        for hop in reversed(",".join(request.headers.getall(hdrs.X_FORWARDED_FOR, ())).split(",")):
            address = _address_of(hop.strip())
            if address is None:
                break
            peer = str(address)
            if not self._trusts(peer):
                break
        return peer

    def is_https(self, request: web.BaseRequest) -> bool:
        """Whether the caller's side of the way is encrypted."""
        if request.secure:
            return True
        # A proxy that adds its line leaves the caller's in place, so all of them have to say so.
        told = request.headers.getall(hdrs.X_FORWARDED_PROTO, ())
        return self._trusts(request.remote or "") and set(told) == {"https"}

    def is_private(self, request: web.BaseRequest) -> bool:
        """Whether nobody on the way can read along: it is encrypted, or does not leave the browser's own machine."""
        if self.is_https(request):
            return True
        # The host is what the caller writes; and a proxy's own address says nothing of the way to the proxy.
        if any(name.lower().startswith(_FORWARDED) for name in request.headers):
            return False
        if not self._published_here and not is_loopback(request.remote or ""):
            return False
        try:
            return is_loopback(URL(f"http://{request.host}").host or "")
        except ValueError:
            return False

    def _trusts(self, text: str) -> bool:
        if not self._trusted:
            return False
        address = _address_of(text)
        return address is not None and any(address in network for network in self._trusted)


def is_loopback(host: str) -> bool:
    """Whether this address or name is this machine's own, and nobody else's way here."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _address_of(text: str) -> IPv4Address | IPv6Address | None:
    """The address of a peer or hop, which some proxies write with a port; None where it is none.

    With a scope it means nothing on another machine, and that may be any text.
    """
    host = text
    if text.startswith("["):
        host = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        host = text.partition(":")[0]
    if len(text) > _MAX_CHARS or "%" in host:
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
