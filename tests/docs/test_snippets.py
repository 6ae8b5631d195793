"""The Python of docs/training.md runs as it is written, in the place that the page names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.fetch import fetch
from pipelines.quickstart import quickstart
from pipelines.shard import shard
from tests.finished_run import outside

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_model_is_trained_sampled_and_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/training.md").read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    for name in ("SEQGEN_ARTIFACTS", "SEQGEN_SHARDS"):
        monkeypatch.delenv(name, raising=False)
    quickstart(Path())
    fetch("quickstart")
    shard("quickstart")
    snippet += "assert trace.write[-1].shape == (2, 1, 4, 2)\n"
    done = subprocess.run([sys.executable, "-c", snippet], env=outside(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *_ = done.stdout.splitlines()
    assert re.fullmatch(r"1 \d+\.\d+", first)
    assert "torch.Size([4, 2, 1, 28, 28])" in done.stdout
    assert (
        (tmp_path / "artifacts/quickstart/data-card.md")
        .read_text()
        .startswith("---\nlicense: cc-by-sa-3.0\n")
    )
