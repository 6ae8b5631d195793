"""Small honest inputs in the sources' own formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raw_files import Make


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()


@pytest.fixture(scope="session")
def small_raw(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in's two archives, small."""
    return make.strokes(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def small_set(make: Make, small_raw: Path, tmp_path: Path) -> Path:
    from data_prep.shard_set import shard_set

    shard_set(make.data, small_raw, tmp_path / "set", processes=1)
    return tmp_path / "set"
