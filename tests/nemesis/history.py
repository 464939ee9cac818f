"""What a run records, for the checkers to judge. Times are seconds since the run began, on the driver's clock."""

from __future__ import annotations

from dataclasses import dataclass, field

ROLLBACK_S = 2.0  # a replica may lack what was answered so long before its primary was lost


GARBAGE = "nemesis.garbage"  # type of entries that nobody can read


@dataclass(slots=True)
class Issued:
    """One command, as its issuer saw it. ``accepted`` None: its outcome is unknown."""

    type: str
    subject: str
    sent: float
    n: int | None = None  # its place among the commands of its subject, where effects are counted
    id: str = ""
    accepted: float | None = None
    expected: str = "done"  # the state it must end in; of a poison "dead" and the cause: "dead killed_its_node"
    ended: str | None = None  # what it ended as; None: nobody knows of it
    raw: bool = False  # added to the stream past the library: no journal has it


@dataclass(frozen=True, slots=True)
class Line:
    """One effect, as the ledger of a subject has it, in the ledger's order."""

    subject: str
    id: str
    n: int
    before: str  # the number that the handler found
    at: float


@dataclass(frozen=True, slots=True)
class Said:
    """One message and its answer; ``code`` is ``ok``, an error's, or ``unknown``."""

    user: str
    room: str
    n: int
    asked: float
    answered: float
    code: str
    offset: int | None = None

    @property
    def text(self) -> str:
        return text_of(self.user, self.n)


@dataclass(frozen=True, slots=True)
class Entered:
    """A client joined a room, or joined it again."""

    client: str
    room: str
    epoch: str
    offset: int  # of the room at that moment
    since: int | None  # what it had before, None = nothing
    recovered: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """A client got a publication of a room."""

    client: str
    room: str
    epoch: str
    offset: int
    text: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Sanction:
    """From ``done`` until ``lifted`` was sent, nothing that ``user`` says in ``room`` may be accepted; None = any."""

    kind: str
    user: str | None
    room: str | None
    done: float
    lifted: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A publication in a room's log at the end."""

    room: str
    epoch: str
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter at the end."""

    id: str
    type: str | None
    code: str
    attempts: int


@dataclass(slots=True)
class Struck:
    """A fault that was made. ``healed``: from then on everything has to work again."""

    wave: int
    kind: str
    target: str
    began: float
    healed: float
    loses: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory of a process, bytes."""

    at: float
    process: str
    pid: int
    rss: int


@dataclass(frozen=True, slots=True)
class Key:
    """A key at the end; ``expires``: it has a time to live."""

    name: str
    expires: bool


@dataclass(slots=True)
class History:
    """All of one run."""

    place: str
    engine: str
    seed: int
    seconds: float = 0.0  # from the first fault's wave to the end of the last
    journaled: bool = True  # publishers put back what a fail-over loses
    issued: list[Issued] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    places: list[Entered | Heard] = field(default_factory=list)  # of every client, in its order
    present: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)  # client, room → place at the end
    sanctions: list[Sanction] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    connections: tuple[int, int] = (0, 0)  # at the beginning, at the end
    complaints: list[str] = field(default_factory=list)  # lines of logs that no healthy process writes

    def may_be_lost(self, at: float) -> bool:
        """Whether what was answered then may have been lost with a primary."""
        return any(s.loses and s.began - ROLLBACK_S <= at <= s.healed + ROLLBACK_S for s in self.struck)


def text_of(user: str, n: int) -> str:
    """What a user says: every text once in a run."""
    return f"{user} #{n}"
