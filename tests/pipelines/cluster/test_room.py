"""Room for checkpoints, looked at before a training or a search starts."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pipelines.cluster.room import check_room
from seqgen.core.errors import OperationalError


def test_room_for_one_checkpoint_is_needed_and_for_all_is_wished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SEQGEN_STORAGE", str(tmp_path / "storage"))
    free = shutil.disk_usage(tmp_path).free
    check_room(1, 3)
    assert not capsys.readouterr().err
    check_room(free // 2, 3)
    told = capsys.readouterr().err
    assert re.search(
        r"warning: .*checkpoints\): [\d,.]+ MiB free, and 3 checkpoints take .*; make room", told
    ), told
    with pytest.raises(
        OperationalError, match=r"checkpoints.*\): .* free, and a checkpoint takes .*; make room"
    ):
        check_room(2 * free, 3)
