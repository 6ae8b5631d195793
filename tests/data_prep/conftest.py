"""Where the real data is, and verbs in a place of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import verb_process

ROOT = Path(__file__).parents[2]


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
        return verb_process.verb(
            ROOT, name, *arguments, **{"SEQGEN_ARTIFACTS": str(tmp_path / "artifacts"), **environment}
        )

    return run
