"""The mutants themselves: the text that each takes out is there, so that `make mutants` tests what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import MUTANTS, REPOSITORY, Mutant


def test_each_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_changes_is_there_once(mutant: Mutant) -> None:
    assert (REPOSITORY / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
    files = [word for word in mutant.tests if word.endswith(".py")]
    assert files
    assert all(Path(REPOSITORY, word).exists() for word in files)
