"""The back office as it would be if writing cost nothing: no entry of the audit chain, no row of journal or history.

``python -m bench.http_unwritten``, with what ``backoffice`` takes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence

from backoffice.__main__ import main
from backoffice.audit import Audit
from backoffice.audit_rows import Line
from backoffice.history import History
from bridge.record import Outcome

_numbers = itertools.count(1)


async def _commit(_audit: Audit, lines: Sequence[Line]) -> None:
    for line in lines:
        line.seq = next(_numbers)


def _accepted(_history: History, _outcome: Outcome) -> None: ...


if __name__ == "__main__":
    os.environ["BRIDGE_JOURNAL"] = "off"
    Audit._commit, History.accepted = _commit, _accepted  # type: ignore[method-assign]
    main()
