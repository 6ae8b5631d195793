"""What a shard is made of, on one core: `python -m benchmarks.sample_format DIRECTORY`, a sharded set.

A sample's drawings as PNG against packed bits in .npy, bytes and CPU time per image; the tar by webdataset against the
standard library's tarfile, images a second of CPU time. The figures stand in docs/data.md.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import Action, in_turns
from data_prep.shard_files import EncodedSample, encode_sample, write_shard
from data_prep.strict_tar import read_strictly
from seqgen.core.files import atomic_writer, file_sha256
from seqgen.data.manifest import Manifest, Shard, check_shard_bytes, read_manifest
from seqgen.data.shards import FIELDS, read_shard

ROUNDS = 9


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
    "png": (lambda images, levels: encode_sample("", images, levels, {}).png, _from_png),
    "npy": (_to_npy, _from_npy),
}


def compare_formats(samples: list[np.ndarray], levels: int) -> None:
    """Print one line for each format. Raises AssertionError if one does not give back what it was given."""
    count = sum(map(len, samples))
    for name, (encode, decode) in FORMATS.items():
        size, seconds = _compare(samples, levels, encode, decode)
        taken = ", ".join(f"{what} {median(values) / count * 1e6:.1f} us" for what, values in seconds.items())
        print(f"  {name}: {size / count:.0f} bytes, {taken} per image")


def _compare(
    samples: list[np.ndarray], levels: int, encode: Callable[..., bytes], decode: Callable[..., np.ndarray]
) -> tuple[int, dict[str, list[float]]]:
    """The bytes of all samples, and the seconds of encoding and of decoding them."""
    encoded = [encode(images, levels) for images in samples]

    def decoded() -> list[np.ndarray]:
        return [
            decode(content, levels, images.shape) for content, images in zip(encoded, samples, strict=True)
        ]

    if not all(map(np.array_equal, decoded(), samples)):
        raise AssertionError("a format does not give back what it was given")
    actions: dict[str, Action] = {
        "encode": lambda: [encode(images, levels) for images in samples],
        "decode": decoded,
    }
    return sum(map(len, encoded)), in_turns(actions, ROUNDS, torch.device("cpu"))


def compare_tars(directory: Path, manifest: Manifest) -> None:
    """Print images a second of writing encoded samples, and of confirming, reading and decoding shards.

    Raises AssertionError if the two writers do not write the same bytes, which are those of the set.
    """
    shards = [shard for index in manifest.splits.values() for shard in index.shards]
    encoded = {shard: _encoded(directory, shard, manifest.levels) for shard in shards}
    with tempfile.TemporaryDirectory(prefix="seqgen-tars-") as scratch:

        def written(write: Callable[[Path, list[EncodedSample]], str]) -> list[str]:
            return [write(Path(scratch) / shard.name, samples) for shard, samples in encoded.items()]

        def read_by_webdataset() -> None:
            for shard in shards:
                exhaust(read_shard(directory, shard))

        def read_by_tarfile() -> None:
            for shard in shards:
                check_shard_bytes(directory, shard)
                exhaust(read_strictly(directory / shard.name))

        actions: dict[str, Action] = {
            "written by webdataset": lambda: written(write_by_webdataset),
            "written by tarfile": lambda: written(write_by_tarfile),
            "read by webdataset": read_by_webdataset,
            "read by tarfile": read_by_tarfile,
        }
        if not written(write_by_webdataset) == written(write_by_tarfile) == [s.sha256 for s in shards]:
            raise AssertionError("the writers' bytes differ from each other's or from the set's")
        seconds = in_turns(actions, ROUNDS, torch.device("cpu"))
    images = sum(shard.images for shard in shards)
    for name, values in seconds.items():
        print(f"  {name}: {images / median(values):,.0f} images/s")


def write_by_webdataset(path: Path, samples: Iterable[EncodedSample]) -> str:
    """The sha256 of the shard of `samples` as the line writes it."""
    return write_shard(path, samples).sha256


def write_by_tarfile(path: Path, samples: Iterable[EncodedSample]) -> str:
    """The sha256 of the same shard, written by the standard library alone."""
    with atomic_writer(path) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for sample in samples:
            for suffix, content in ((".png", sample.png), (".json", sample.json)):
                member = tarfile.TarInfo(sample.key + suffix)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file_sha256(path)


def exhaust(iterator: Iterator[object]) -> None:
    """Take everything that `iterator` has."""
    deque(iterator, maxlen=0)


def _encoded(directory: Path, shard: Shard, levels: int) -> list[EncodedSample]:
    """The samples of a shard as they were written into it."""
    with tarfile.open(directory / shard.name) as tar:
        keys = [name.removesuffix(".png") for name in tar.getnames() if name.endswith(".png")]
    fields = [field for field in FIELDS if field != "shape"]
    return [
        encode_sample(key, images, levels, {field: meta[field] for field in fields})
        for key, (images, meta) in zip(keys, read_shard(directory, shard), strict=True)
    ]


def main(directory: Path) -> None:
    """Measure and print."""
    manifest = read_manifest(directory)
    samples = [
        images
        for index in manifest.splits.values()
        for shard in index.shards
        for images, _ in read_shard(directory, shard)
    ]
    print(f"{manifest.title}: {sum(map(len, samples)):,} images in {len(samples):,} samples")
    compare_formats(samples, manifest.levels)
    compare_tars(directory, manifest)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
