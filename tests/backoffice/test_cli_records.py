"""``chatbridge audit verify`` and ``chatbridge archive``, against a running back office."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from pathlib import Path

from tests.backoffice.audited import audited
from tests.backoffice.service import TOKENS, Api
from tests.waiting import until


async def chatbridge(api: Api, *arguments: str, role: str = "viewer") -> tuple[int, str, str]:
    """Exit status, output and error output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bridge.cli", *arguments, "--url", api.url, "--token", TOKENS[role],
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    return process.returncode or 0, out.decode(), errors.decode()


async def test_a_chain_that_holds_is_told(api: Api) -> None:
    await api.issue("room.open", "room:lobby", {"title": "Ünïcode 욕설 \u2028"}, reason="x")
    await api.post("/operators", {"name": "bo", "role": "viewer"})
    await audited(api, 4)
    status, out, errors = await chatbridge(api, "audit", "verify", "--json")
    assert (status, errors) == (0, "")
    told = json.loads(out)
    assert (told["ok"], [chain["entries"] for chain in told["chains"]]) == (True, [4])


async def test_a_changed_entry_is_named(api: Api) -> None:
    for number in range(5):
        await api.issue("room.open", f"room:r{number}", {})
    await audited(api, 10)
    with sqlite3.connect(api.database) as database:
        database.execute("UPDATE audit SET target = 'room:other' WHERE seq = 7")
    database.close()
    status, out, _ = await chatbridge(api, "audit", "verify")
    assert status == 1
    assert ": entry 7: was changed\n" in out
    assert out.endswith("does NOT hold\n")


async def test_the_end_cut_off_is_told(api: Api) -> None:
    await api.issue("room.open", "room:lobby", {})
    await audited(api, 2)
    with sqlite3.connect(api.database) as database:
        database.execute("DELETE FROM audit WHERE seq = 2")
    database.close()
    status, out, _ = await chatbridge(api, "audit", "verify")
    assert (status, "the chain ends at 1, and was written up to 2" in out) == (1, True)


async def test_an_archive_is_whole_or_not_there(api: Api, tmp_path: Path) -> None:
    await api.issue("room.open", "room:lobby", {})
    await audited(api, 2)
    file = tmp_path / "audit.jsonl"
    status, out, _ = await chatbridge(api, "archive", "audit", str(file))
    assert (status, out) == (0, f"2 lines in {file}\n")
    assert [json.loads(line)["seq"] for line in file.read_text().splitlines()] == [1, 2]
    status, _, errors = await chatbridge(api, "archive", "audit", str(file))
    assert status == 2
    assert "is there already" in errors
    await api.stop()
    other = tmp_path / "commands.csv"
    status, _, errors = await chatbridge(api, "archive", "commands", str(other), "--format", "csv")
    assert (status, other.exists(), len(errors.splitlines())) == (1, False, 1)


async def test_an_archive_is_issued_again_and_only_once(api: Api, tmp_path: Path) -> None:
    commands = [{"type": "room.open", "subject": f"room:r{number}", "payload": {}} for number in range(3)]
    await api.post("/commands/batch", {"commands": commands})
    await until(lambda: _count(api, 3))
    file = tmp_path / "commands.jsonl"
    await chatbridge(api, "archive", "commands", str(file))
    assert (await chatbridge(api, "replay", str(file), "--dry-run"))[1] == "would issue 3 commands\n"
    assert (await chatbridge(api, "replay", str(file), role="operator"))[:2] == (0, "3 issued\n")
    assert (await chatbridge(api, "replay", str(file), role="operator"))[:2] == (0, "3 issued before\n")
    status, out, errors = await chatbridge(api, "replay", str(file))
    assert (status, "forbidden" in errors or "role" in errors) == (1, True), (out, errors)
    file.write_text("nonsense")
    assert (await chatbridge(api, "replay", str(file)))[0] == 2


async def _count(api: Api, count: int) -> bool:
    return len((await api.get("/commands")).json["items"]) == count
