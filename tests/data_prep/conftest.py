"""Small honest inputs in the sources' own formats, and where the real data is."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqgen.data.settings import DataConfig

ROOT = Path(__file__).parents[2]
SMALL = {
    "images_background": {"Alpha_(one)": 5, "Beta-two": 4, "Ünïcode": 4},
    "images_evaluation": {f"Eval{letter}": 4 for letter in "ABCDEFGHIJKLMNOP"},
}


class Make:
    """Builders of files; `seed` makes their pixels differ."""

    data = DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static")

    def png(self, seed: int = 0, size: tuple[int, int] = (105, 105), mode: str = "1") -> bytes:
        random = np.random.default_rng(seed)
        pixels = random.integers(0, 2, (size[1], size[0]), dtype=np.uint8) * 255
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
        return buffer.getvalue()

    def character(self, folder: str, seed: int = 0) -> dict[str, bytes]:
        return {f"{folder}/0001_{drawer:02d}.png": self.png(seed * 100 + drawer) for drawer in range(1, 21)}

    def zip(self, path: Path, members: dict[str, bytes]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path

    def strokes(self, raw: Path) -> Path:
        """A tiny `omniglot_strokes` below `raw`: 13 and 64 characters, one alphabet not ASCII."""
        seed = 0
        for archive, alphabets in SMALL.items():
            members: dict[str, bytes] = {}
            for alphabet, count in alphabets.items():
                for number in range(1, count + 1):
                    seed += 1
                    members |= self.character(f"{archive}/{alphabet}/character{number:02d}", seed)
            self.zip(raw / "omniglot_strokes" / f"{archive}.zip", members)
        return raw

    def idx_images(self, path: Path, count: int, content: bytes | None = None, magic: int = 0x803) -> Path:
        pixels = bytes(count * 784) if content is None else content
        path.write_bytes(gzip.compress(struct.pack(">4I", magic, count, 28, 28) + pixels))
        return path

    def idx_labels(self, path: Path, labels: list[int], count: int | None = None) -> Path:
        head = struct.pack(">2I", 0x801, len(labels) if count is None else count)
        path.write_bytes(gzip.compress(head + bytes(labels)))
        return path


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
