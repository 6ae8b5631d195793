"""Images that are NumPy arrays: written as a folder of PNG files, which is then a source like any other folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from data_prep.fetch import fetch
from data_prep.folder import is_image
from data_prep.shard_set import shard_set
from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes
from seqgen.data.manifest import Manifest
from seqgen.data.settings import DataConfig


def shard_arrays(
    data: DataConfig,
    images: ArrayLike,
    labels: Sequence[str | int] | None,
    place: Path,
    processes: int = 1,
) -> Manifest:
    """Make `place/raw` and `place/shards` of arrays, as `fetch` and `shard` make them of files; the manifest.

    The images are written into `data.path` (`write_images`), on the paper that `data.paper` says, and are then those
    of a folder: `place` is `artifacts/<recipe>` of a recipe whose `data` this is, and every verb goes on from there.
    More than one of `processes` wants a script with `if __name__ == "__main__":`, for they are spawned.
    Raises BadInput as `write_images`, `fetch` and `shard_set` do.
    """
    if data.source != "folder" or data.path is None or data.path.startswith("s3://"):
        raise BadInput("arrays want data.source=folder, and a folder of this machine in data.path")
    write_images(Path(data.path), images, labels, dark=data.paper == "dark")
    shards = place / "shards"
    fetch(
        ["folder"],
        place / "raw",
        folder=data.path,
        shards=shards,
        concepts=data.has_characters,
        notice=lambda line: None,
    )
    return shard_set(data, place / "raw", shards, processes)


def write_images(
    folder: Path, images: ArrayLike, labels: Sequence[str | int] | None, *, dark: bool = False
) -> None:
    """Write `images` [n,H,W] as `<label>/<number>.png`, or as `<number>.png` without labels.

    Bits or floats in [0, 1], 1 = ink, or integers 0..255, 255 = ink; a label is a concept, or "alphabet/concept". Dark
    ink on white, with `dark` light ink on black. A folder that holds the same images already is left as it is. Raises
    BadInput where the arrays are no such images, a label is no name, or the folder holds other images.
    """
    levels = _levels(np.asarray(images))
    names = _names(len(levels), labels)
    files = {name: _png(image if dark else 255 - image) for name, image in zip(names, levels, strict=True)}
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    there = {name: path for name, path in there.items() if is_image(name)}
    other = sorted(
        name for name, path in there.items() if name not in files or path.read_bytes() != files[name]
    )
    if other:
        raise BadInput(
            f"{folder}: holds other images ({other[0]}, {len(other):,} in all); name another folder"
        )
    for name, content in files.items():
        if name not in there:
            write_bytes(folder / name, content)


def _levels(images: np.ndarray) -> np.ndarray:
    """Images of any kind as uint8 [n,H,W], 255 = ink."""
    if images.ndim != 3 or 0 in images.shape:
        raise BadInput(f"images of shape {list(images.shape)}: give [n, H, W], none of them 0")
    if images.dtype.kind not in "buif":
        raise BadInput(f"images of {images.dtype}: give bits, integers 0 to 255 or floats 0 to 1")
    most = 255 if images.dtype.kind in "iu" else 1
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= most):  # so that nan is refused, too
        raise BadInput(f"images of {images.dtype} from {low} to {high}: give 0 (paper) to {most} (ink)")
    if most == 255 and high <= 1:
        raise BadInput(
            f"integers of {images.dtype} up to {high}: give bits as bool, or levels 0 (paper) to 255 (ink)"
        )
    return images.astype(np.uint8) if most == 255 else np.rint(images * 255.0).astype(np.uint8)


def _names(count: int, labels: Sequence[str | int] | None) -> list[str]:
    if labels is None:
        return [f"{number:06d}.png" for number in range(count)]
    if len(labels) != count:
        raise BadInput(f"{len(labels)} labels for {count} images: give one for each")
    names = []
    for number, label in enumerate(map(str, labels)):
        parts = label.split("/")
        good = all(part and part == part.strip() and part.isprintable() and part[0] != "." for part in parts)
        if len(parts) > 2 or not good or "\\" in label:
            raise BadInput(f"label {label!r} of image {number}: give a concept, or alphabet/concept")
        names.append(f"{label}/{number:06d}.png")
    return names


def _png(levels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "PNG")
    return stream.getvalue()
