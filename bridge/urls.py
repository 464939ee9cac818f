"""Redis URLs: what each names, refused with the choices where it cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url

from bridge.errors import Misconfigured
from bridge.link import Endpoint
from bridge.sentinel import Sentinel
from bridge.topology import Cluster, Single, Topology

SENTINEL_PORT, CLUSTER_PORT = 26379, 6379
_CHOICES = (
    "use embedded://PATH, unix://PATH, redis://HOST:PORT, rediss://HOST:PORT, "
    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or redis+cluster://HOST:PORT,HOST:PORT"
)


def topology_of(url: str) -> Topology:
    """Read a URL. Raises Misconfigured with the choices."""
    scheme = urlsplit(url).scheme
    if scheme not in ("redis+sentinel", "redis+cluster"):
        return Single(endpoint_of(url))
    try:
        return _several(url, scheme)
    except (ValueError, TypeError) as error:
        raise _unusable(error) from None


def endpoint_of(url: str) -> Endpoint:
    """Read the URL of one server. Raises Misconfigured with the choices."""
    scheme = urlsplit(url).scheme
    if scheme not in ("unix", "redis", "rediss"):
        raise Misconfigured(f"{scheme!r} is no Redis URL scheme here; {_CHOICES}")
    try:
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
    except (ValueError, TypeError, OSError) as error:
        raise _unusable(error) from None


def _unusable(error: Exception) -> Misconfigured:
    return Misconfigured(f"the Redis URL cannot be used: {error}; {_CHOICES}")


def _several(url: str, scheme: str) -> Topology:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    like = Endpoint(username=unquote(username) or None, password=unquote(password) or None)
    if scheme == "redis+cluster":
        _refuse(query, parts.path.strip("/"))
        return Cluster(list(_hosts(hosts, CLUSTER_PORT, like)), like)
    service = unquote(parts.path.strip("/"))
    if not service:
        raise ValueError("name the service behind the sentinels: redis+sentinel://HOST:PORT/SERVICE")
    database = query.pop("db", "0")
    if not database.isdigit():
        raise ValueError(f"db={database} is no number")
    like = replace(like, database=int(database))
    asks = Endpoint(password=query.pop("sentinel_password", None), username=query.pop("sentinel_username", None))
    _refuse(query, "")
    return Sentinel(list(_hosts(hosts, SENTINEL_PORT, asks)), service, like)


def _refuse(query: dict[str, str], path: str) -> None:
    if query or path:
        raise ValueError(f"{', '.join([*query, *filter(None, [path])])} means nothing here")


def _hosts(hosts: str, port: int, like: Endpoint) -> Iterable[Endpoint]:
    for host in hosts.split(","):
        name, separator, number = host.rpartition(":")
        if not separator or not number.isdigit():
            name, number = host, str(port)
        if not name or not 0 < int(number) < 65536:
            raise ValueError(f"{host!r} is no HOST:PORT")
        yield replace(like, host=name.strip("[]"), port=int(number))
