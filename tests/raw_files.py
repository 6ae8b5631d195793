"""Small honest inputs in the sources' own formats, for tests that then damage them."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from seqgen.data.settings import DataConfig

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
