"""The benchmark of sample and shard formats: it compares what is equal, and prints every figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sample_format
from tests.sets import write_digits, write_strokes


@pytest.mark.parametrize("write", [write_digits, write_strokes])
def test_every_figure_is_printed(
    tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sample_format, "ROUNDS", 1)
    write(tmp_path)
    sample_format.main(tmp_path)
    lines = capsys.readouterr().out.splitlines()[1:]
    names = [line.strip().partition(":")[0] for line in lines]
    tars = [f"{done} by {library}" for done in ("written", "read") for library in ("webdataset", "tarfile")]
    assert names == ["png", "npy", *tars]
    assert all(" us, decode " in line for line in lines[:2])
    assert all(line.endswith(" images/s") for line in lines[2:])


def test_a_set_whose_bytes_are_other_than_the_writers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_digits(tmp_path)
    monkeypatch.setattr(sample_format, "write_by_tarfile", lambda path, samples: "0" * 64)
    with pytest.raises(AssertionError, match="bytes differ"):
        sample_format.main(tmp_path)
