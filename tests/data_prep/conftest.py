"""Small honest inputs in the sources' own formats, and where the real data is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.raw_files import Make

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()


@pytest.fixture(scope="session")
def small_raw(make, tmp_path_factory) -> Path:
    return make.strokes(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def small_set(make, small_raw, tmp_path) -> Path:
    from data_prep.shard_set import shard_set

    shard_set(make.data, small_raw, tmp_path / "set", processes=1)
    return tmp_path / "set"


@pytest.fixture(scope="session")
def real_data() -> Path:
    path = Path(os.environ.get("SEQGEN_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "omniglot" / "images_background.zip").is_file():
        pytest.skip("the real data is not here (SEQGEN_TEST_DATA names its folder)")
    return path


@pytest.fixture
def verb(tmp_path):
    """Run `python -m pipelines.<verb>` with artifacts below tmp_path."""

    def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if key != "SEQGEN_MIRROR"}
        return subprocess.run(
            [sys.executable, "-m", f"pipelines.{name}", *arguments],
            cwd=ROOT,
            env={**kept, "SEQGEN_ARTIFACTS": str(tmp_path / "artifacts"), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
