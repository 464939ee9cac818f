"""Real servers for tests, alone or together, on free ports: one, one with replicas and sentinels, a cluster.

They start from configuration files that know everybody already, so that nothing has to be
discovered first: a cluster serves after its two seconds of caution, Sentinel after the first sync.
"""

from __future__ import annotations

from tests.topologies.base import Topology, ask, role
from tests.topologies.cluster import ManyServers, Member, id_of
from tests.topologies.sentinel import SERVICE, Watched
from tests.topologies.standalone import OneServer

__all__ = ["KINDS", "SERVICE", "ManyServers", "Member", "OneServer", "Topology", "Watched", "ask", "id_of", "role"]

KINDS: dict[str, type[Topology]] = {"standalone": OneServer, "sentinel": Watched, "cluster": ManyServers}
REPLICATED = ("sentinel", "cluster")
