"""Where the primaries are: one server, the one that sentinels name, or a cluster's slots."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url

from bridge.errors import BridgeError, Misconfigured, Unreachable
from bridge.link import Endpoint, Link

SLOTS = 16384
SENTINEL_PORT, CLUSTER_PORT = 26379, 6379
_CHOICES = (
    "use embedded://PATH, unix://PATH, redis://HOST:PORT, rediss://HOST:PORT, "
    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or redis+cluster://HOST:PORT,HOST:PORT"
)


def slot_of(key: str | bytes) -> int:
    """The cluster slot of a key: CRC16/XMODEM of its hash tag, or of all of it (Redis cluster specification)."""
    data = key.encode() if isinstance(key, str) else key
    start = data.find(b"{")
    if start >= 0:
        end = data.find(b"}", start + 1)
        if end > start + 1:
            data = data[start + 1 : end]
    return crc_hqx(data, 0) % SLOTS


@dataclass(frozen=True)
class Placement:
    """The primaries, and which of them owns a key."""

    primaries: tuple[Endpoint, ...]
    owners: tuple[int, ...] | None = None  # per slot an index into primaries, -1 = nobody; None: the only one owns all

    def owner(self, key: str | bytes) -> Endpoint | None:
        """None: no primary has the key's slot at this moment."""
        if self.owners is None:
            return self.primaries[0]
        index = self.owners[slot_of(key)]
        return self.primaries[index] if index >= 0 else None


class Topology(Protocol):
    """A way to find the primaries. ``fixed`` ones are looked at once."""

    fixed: bool

    async def look(self, timeout: float) -> Placement:
        """Where they are now. Raises Unreachable."""


class Single:
    """One server, always at the same address."""

    fixed = True

    def __init__(self, endpoint: Endpoint) -> None:
        self._placement = Placement((endpoint,))

    async def look(self, timeout: float) -> Placement:
        return self._placement


class Sentinel:
    """The primary of one service, as the first sentinel that answers says. It is asked whether it agrees."""

    fixed = False

    def __init__(self, sentinels: Sequence[Endpoint], service: str, like: Endpoint) -> None:
        self._sentinels, self._service, self._like = list(sentinels), service, like

    async def look(self, timeout: float) -> Placement:
        faults = []
        for sentinel in tuple(self._sentinels):
            try:
                endpoint = await self._ask(sentinel, timeout)
            except BridgeError as error:
                faults.append(str(error))
                continue
            # The one that answered is asked first next time.
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return Placement((endpoint,))
        raise Unreachable(f"no sentinel knows a primary of {self._service!r}: {'; '.join(faults)}")

    async def _ask(self, sentinel: Endpoint, timeout: float) -> Endpoint:
        found = await _call(sentinel, timeout, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        if found is None:
            raise Misconfigured(f"{sentinel} watches no service {self._service!r}")
        endpoint = replace(self._like, host=found[0].decode(), port=int(found[1]))
        role = await _call(endpoint, timeout, "ROLE")
        if role[0] != b"master":
            raise Unreachable(f"{endpoint} is not a primary (yet)")
        return endpoint


class Cluster:
    """The slots of a cluster, as the first node that answers tells."""

    fixed = False

    def __init__(self, seeds: Sequence[Endpoint], like: Endpoint) -> None:
        self._known, self._like = list(seeds), like

    async def look(self, timeout: float) -> Placement:
        faults = []
        for node in tuple(self._known):
            try:
                ranges = await _call(node, timeout, "CLUSTER", "SLOTS")
            except BridgeError as error:
                faults.append(str(error))
                continue
            placement = self._placement(node, ranges)
            if placement.primaries:
                return placement
            faults.append(f"{node}: no slots are served")
        raise Unreachable(f"no cluster node tells its slots: {'; '.join(faults)}")

    def _placement(self, told_by: Endpoint, ranges: Sequence[Any]) -> Placement:
        owners, primaries, others = [-1] * SLOTS, [], []
        for first, last, primary, *replicas in ranges:
            endpoint = self._endpoint(told_by, primary)
            if endpoint not in primaries:
                primaries.append(endpoint)
            owners[first : last + 1] = [primaries.index(endpoint)] * (last - first + 1)
            others += [self._endpoint(told_by, replica) for replica in replicas]
        # Next time those are asked that serve now; the seeds stay last.
        self._known = list(dict.fromkeys([*primaries, *others, *self._known]))[:64]
        return Placement(tuple(primaries), tuple(owners))

    def _endpoint(self, told_by: Endpoint, node: Sequence[Any]) -> Endpoint:
        host = node[0].decode() if node[0] else told_by.host  # empty: the address that we came by
        return replace(self._like, host=host, port=node[1])


async def _call(endpoint: Endpoint, timeout: float, *arguments: str) -> Any:
    """One call on a connection of its own."""
    link = await Link.open(endpoint, timeout=timeout)
    try:
        return await link.send(*arguments)
    finally:
        link.close()


def topology_of(url: str) -> Topology:
    """Read a URL. Raises Misconfigured with the choices."""
    scheme = urlsplit(url).scheme
    try:
        if scheme in ("unix", "redis", "rediss"):
            return Single(_endpoint(url))
        if scheme in ("redis+sentinel", "redis+cluster"):
            return _several(url, scheme)
    except (ValueError, TypeError, OSError) as error:
        raise Misconfigured(f"the Redis URL cannot be used: {error}; {_CHOICES}") from None
    raise Misconfigured(f"{scheme or url!r} is no Redis URL scheme here; {_CHOICES}")


def _endpoint(url: str) -> Endpoint:
    options: dict[str, Any] = dict(parse_url(url))
    is_tls = options.pop("connection_class", None) is SSLConnection
    return Endpoint(
        path=options.get("path"),
        host=options.get("host", "localhost"),
        port=options.get("port", 6379),
        username=options.get("username"),
        password=options.get("password"),
        database=int(options.get("db", 0)),
        tls=SSLConnection(**options).ssl_context.get() if is_tls else None,
    )


def _several(url: str, scheme: str) -> Topology:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    like = Endpoint(
        username=unquote(username) or None,
        password=unquote(password) or None,
        database=int(query.pop("db", 0)),
    )
    if scheme == "redis+cluster":
        _refuse(query, parts.path.strip("/"))
        return Cluster(list(_hosts(hosts, CLUSTER_PORT, like)), like)
    service = unquote(parts.path.strip("/"))
    if not service:
        raise ValueError("name the service behind the sentinels: redis+sentinel://HOST:PORT/SERVICE")
    asks = Endpoint(password=query.pop("sentinel_password", None), username=query.pop("sentinel_username", None))
    _refuse(query, "")
    return Sentinel(list(_hosts(hosts, SENTINEL_PORT, asks)), service, like)


def _refuse(query: dict[str, str], path: str) -> None:
    if query or path:
        raise ValueError(f"{', '.join([*query, *filter(None, [path])])} means nothing in this URL")


def _hosts(hosts: str, port: int, like: Endpoint) -> Iterable[Endpoint]:
    for host in hosts.split(","):
        name, separator, number = host.rpartition(":")
        if not separator or not number.isdigit():
            name, number = host, str(port)
        if not name:
            raise ValueError(f"{host!r} is no HOST:PORT")
        yield replace(like, host=name.strip("[]"), port=int(number))
