"""A primary that takes no writes: what a node wanted to settle stays, and is settled later, in its turn."""

from __future__ import annotations

from functools import partial

import pytest

from tests.faults.load import Load
from tests.topologies import Topology, ask
from tests.topology.party import Party
from tests.waiting import until


def more_refusals(load: Load, than: int) -> bool:
    return load.refusals.total() > than


@pytest.mark.usefixtures("steady")
async def test_commands_wait_while_too_few_replicas_are_there(topology: Topology, party: Party) -> None:
    async with party.load() as load:
        await load.more(100)
        primaries = await topology.primaries()
        for _ in range(3):
            for value in (9, 0):
                for primary in primaries:
                    await ask(primary, "CONFIG", "SET", "min-replicas-to-write", value)
                if value:
                    await until(partial(more_refusals, load, load.refusals.total()), 30)
        await party.all_rooms_go_on(load)
    await party.drained()
    (await party.audit(load)).clean()
