"""Key and channel names. Hash-tag braces are written in this module only."""

from __future__ import annotations

from bridge.errors import Misconfigured

GROUP = "chatservers"  # the consumer group that every node joins

# Second parts of shard-wide keys; no subject kind and no shard-wide state name may be one of them.
RESERVED = frozenset({
    "commands", "settled", "outcome", "idem", "lease", "epoch", "incarnation", "asleep", "starts", "dead",
    "requeued", "scheduled", "channel", "receipts", "ring", "ended", "spare", "history", "newer", "publishers",
})  # fmt: skip


class Keys:
    """Every key and channel name of one namespace. Shard keys of one shard share a slot."""

    def __init__(self, namespace: str = "chat") -> None:
        if not namespace or any(c in namespace for c in "{}: \n"):
            raise Misconfigured(f"namespace {namespace!r}: use letters, digits, '-' and '_' only")
        self.namespace = namespace
        self.meta = f"{namespace}:{{meta}}"
        self.live = f"{namespace}:{{nodes}}:live"
        self.info = f"{namespace}:{{nodes}}:info"
        self.draining = f"{namespace}:{{nodes}}:draining"
        self.nodes_spare = f"{namespace}:{{nodes}}:spare"

    def node_channel(self, node: str) -> str:
        return f"{self.namespace}:{{nodes}}:{node}"

    def shard(self, shard: int) -> str:
        """The prefix that every key of a shard has."""
        return f"{self.namespace}:{{{shard}}}:"

    def commands(self, shard: int) -> str:
        return f"{self.shard(shard)}commands"

    def settled(self, shard: int) -> str:
        return f"{self.shard(shard)}settled"

    def outcome(self, shard: int, id: str) -> str:
        return f"{self.shard(shard)}outcome:{id}"

    def receipts(self, shard: int, id: str) -> str:
        """Hash: node → how many of its sessions a command touched."""
        return f"{self.shard(shard)}receipts:{id}"

    def idem(self, shard: int, caller: str, subject: str, key: str) -> str:
        # Callers' names and keys may hold colons; with those of the caller escaped no two callers' keys meet.
        caller = caller.replace("%", "%25").replace(":", "%3A")
        return f"{self.shard(shard)}idem:{caller}:{subject}:{key}"

    def lease(self, shard: int) -> str:
        return f"{self.shard(shard)}lease"

    def epoch(self, shard: int) -> str:
        return f"{self.shard(shard)}epoch"

    def incarnation(self, shard: int) -> str:
        return f"{self.shard(shard)}incarnation"

    def asleep(self, shard: int) -> str:
        return f"{self.shard(shard)}asleep"

    def starts(self, shard: int) -> str:
        return f"{self.shard(shard)}starts"

    def dead(self, shard: int) -> str:
        return f"{self.shard(shard)}dead"

    def requeued(self, shard: int) -> str:
        """Hash: id of a dead command → id of the one that repeats it."""
        return f"{self.shard(shard)}requeued"

    def scheduled(self, shard: int) -> str:
        """Sorted set: id of a command that is not due yet → ms when it is."""
        return f"{self.shard(shard)}scheduled"

    def bodies(self, shard: int) -> str:
        """Hash: id of a scheduled command → its fields."""
        return f"{self.shard(shard)}scheduled:bodies"

    def moved(self, shard: int) -> str:
        """Hash: id of a command that was scheduled and has not ended → its entry on the stream."""
        return f"{self.shard(shard)}scheduled:moved"

    def spare(self, shard: int) -> str:
        """Never exists. Deleting it makes a script's first write one that a full server allows."""
        return f"{self.shard(shard)}spare"

    def history(self, shard: int) -> str:
        """The incarnation on which every publisher has put back what it may have lost."""
        return f"{self.shard(shard)}history"

    def publishers(self, shard: int) -> str:
        """Hash: publisher with a journal → its last sign of life (ms) and the incarnation that it vouches for."""
        return f"{self.shard(shard)}publishers"

    def newer(self, shard: int) -> str:
        """Hash: subject → ms and incarnation of its last new command, kept while a replay may come."""
        return f"{self.shard(shard)}newer"

    def ring(self, shard: int) -> str:
        """Pub/sub channel that wakes the shard's sleeping holder."""
        return f"{self.shard(shard)}ring"

    def ended(self, shard: int) -> str:
        """Pub/sub channel: ids that were settled just now, separated by blanks."""
        return f"{self.shard(shard)}ended"

    def channel(self, shard: int, name: str) -> str:
        """Hash with epoch and offset; the pub/sub channel of the same name carries its publications."""
        return f"{self.shard(shard)}channel:{name}"

    def log(self, shard: int, name: str) -> str:
        return f"{self.shard(shard)}channel:{name}:log"

    def state(self, shard: int, subject: str, name: str) -> str:
        """A subject's own key: ``chat:{7}:room:lobby:settings``."""
        return f"{self.shard(shard)}{subject}:{name}"

    def shared(self, shard: int, name: str) -> str:
        """A key that all subjects of a shard share, such as an index: ``chat:{7}:rooms``."""
        if name.partition(":")[0] in RESERVED:
            raise Misconfigured(f"shared state cannot be called {name!r}: the bridge uses that name")
        return f"{self.shard(shard)}{name}"
