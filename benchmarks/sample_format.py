"""A sample's drawings as PNG against packed bits in .npy: `python -m benchmarks.sample_format DIRECTORY`.

Takes every sample of a sharded set; prints bytes and CPU microseconds per image. The figures stand in
docs/data.md.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from seqgen.data.manifest import read_manifest
from seqgen.data.shards import encode_sample, read_shard


def _from_png(content: bytes, levels: int, shape: tuple[int, ...]) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        return np.asarray(picture).astype(np.uint8).reshape(shape)


def _to_npy(images: np.ndarray, levels: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.packbits(images.reshape(len(images), -1), axis=1) if levels == 2 else images)
    return buffer.getvalue()


def _from_npy(content: bytes, levels: int, shape: tuple[int, ...]) -> np.ndarray:
    stored = np.load(io.BytesIO(content), allow_pickle=False)
    return (np.unpackbits(stored, axis=1, count=shape[1] * shape[2]) if levels == 2 else stored).reshape(
        shape
    )


FORMATS: dict[str, tuple[Callable[..., bytes], Callable[..., np.ndarray]]] = {
    "png": (lambda images, levels: encode_sample(images, levels, {})[0], _from_png),
    "npy": (_to_npy, _from_npy),
}


def main(directory: Path) -> None:
    """Print one line for each format."""
    manifest = read_manifest(directory)
    shards = [directory / shard.name for index in manifest.splits.values() for shard in index.shards]
    samples = [images for path in shards for images, _ in read_shard(path)]
    count = sum(len(images) for images in samples)
    print(f"{manifest.title}: {count:,} images in {len(samples):,} samples")
    for name, (encode, decode) in FORMATS.items():
        start = time.process_time()
        encoded = [encode(images, manifest.levels) for images in samples]
        middle = time.process_time()
        decoded = [decode(c, manifest.levels, i.shape) for c, i in zip(encoded, samples, strict=True)]
        end = time.process_time()
        if not all(np.array_equal(a, b) for a, b in zip(decoded, samples, strict=True)):
            raise AssertionError(f"{name} does not give back what it was given")
        size = sum(map(len, encoded)) / count
        print(
            f"  {name}: {size:.0f} bytes, encode {(middle - start) / count * 1e6:.1f} us, "
            f"decode {(end - middle) / count * 1e6:.1f} us per image"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
