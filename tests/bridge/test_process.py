"""Files that say where a service serves."""

from __future__ import annotations

import stat
from pathlib import Path

from bridge.process import write_json


def test_a_file_is_replaced_as_a_whole_and_for_whom_it_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text("old")
    write_json(path, {"pid": 1}, mode=0o600)
    assert path.read_text() == '{"pid":1}'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
