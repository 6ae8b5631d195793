"""Samples and tars as tests want them, honest and not."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.shard_files import EncodedSample, encode_sample

KEYS = [f"00000{n}-Alpha_character0{n}" for n in range(4)]


def some_meta(**changes: Any) -> dict[str, Any]:
    return {
        "dataset": "omniglot",
        "alphabet": "Älpha",
        "character": "character01",
        "concept": "Älpha/character01",
        "drawers": [1, 2, 3],
        "labels": None,
    } | changes


def some_images(seed: int, levels: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, levels, (3, 28, 28), dtype=np.uint8)


def some_sample(n: int) -> EncodedSample:
    return encode_sample(KEYS[n], some_images(n), 2, some_meta())


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A tar of any members."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
