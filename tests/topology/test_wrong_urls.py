"""URLs that name the wrong kind of server are refused with the right one."""

from __future__ import annotations

import pytest

from bridge.connection import Redis
from bridge.errors import BridgeError, Misconfigured, Unreachable
from tests.servers import _free_port
from tests.topologies import ManyServers, Watched


async def refusal(url: str) -> BridgeError:
    with pytest.raises(BridgeError) as refused:
        await Redis.connect(url, timeout=10)
    return refused.value


async def test_a_cluster_node_is_not_one_server(cluster: ManyServers) -> None:
    port = cluster.servers[0].port
    error = await refusal(f"redis://127.0.0.1:{port}")
    assert isinstance(error, Misconfigured)
    assert f"redis+cluster://127.0.0.1:{port}" in str(error)


async def test_a_sentinel_is_not_one_server(sentinel: Watched) -> None:
    error = await refusal(f"redis://127.0.0.1:{sentinel.helpers[0].port}")
    assert isinstance(error, Misconfigured)
    assert "/SERVICE" in str(error)


async def test_a_service_that_no_sentinel_watches_is_refused_by_name(sentinel: Watched) -> None:
    error = await refusal(sentinel.url.replace("/chat", "/other"))
    assert isinstance(error, Misconfigured)
    assert "'other'" in str(error)


@pytest.mark.parametrize(
    ("scheme", "complaint"), [("redis+cluster", "no cluster node"), ("redis+sentinel", "no sentinel")]
)
async def test_one_server_is_no_topology(sentinel: Watched, scheme: str, complaint: str) -> None:
    error = await refusal(f"{scheme}://127.0.0.1:{sentinel.servers[0].port}{'/chat' if 'sentinel' in scheme else ''}")
    assert isinstance(error, Misconfigured)
    assert complaint in str(error)


@pytest.mark.parametrize("url", ["redis+cluster://127.0.0.1:{}", "redis+sentinel://127.0.0.1:{}/chat"])
async def test_nobody_there_is_no_matter_of_settings(url: str) -> None:
    assert type(await refusal(url.format(_free_port()))) is Unreachable


async def test_some_seeds_may_be_down(cluster: ManyServers) -> None:
    seeds = f"127.0.0.1:{_free_port()},127.0.0.1:{cluster.servers[4].port}"
    redis = await Redis.connect(f"redis+cluster://{seeds}", timeout=10)
    assert len(redis.placement.primaries) == 3
    await redis.close()
