"""Directories that are written as a whole or not at all."""

from __future__ import annotations

import pytest

from seqgen.core.errors import OperationalError
from seqgen.core.files import directory_writer


def test_two_writers_at_once_are_refused_and_a_failed_one_leaves_what_was(tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError), directory_writer(target) as building:
        (building / "half" / "done").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert [path.name for path in target.iterdir()] == ["old"]
    with directory_writer(target) as building:
        (building / "new").touch()
        with pytest.raises(OperationalError, match="another process is writing"), directory_writer(target):
            pass
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
