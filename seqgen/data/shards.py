"""Shards as they are read: webdataset tars, each confirmed by the manifest before the first of its samples is used.

A sample is `<key>.png`, n drawings on top of each other, and `<key>.json`, the fields below with two digests.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from seqgen.core.errors import OperationalError
from seqgen.core.files import canonical_digest, canonical_json
from seqgen.data.manifest import Place, Shard, confirmed_bytes

FIELDS = ("dataset", "alphabet", "character", "concept", "drawers", "labels", "shape")
_DIGESTS = ("png_sha256", "digest")  # of the PNG; of the JSON's other fields
_MAX_PIXELS = 2**26  # of one sample; the largest written here has 500 x 64 x 64


def read_shard(place: Place, shard: Shard) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield (images uint8 [n, H, W], meta) for each sample, in the order of the file.

    `images` is in {0, 1} for a 1-bit PNG, else 0..255. Raises OperationalError naming the shard for everything that is
    not as the manifest says: its bytes, what its members are, how many samples and images it holds.
    """
    # imported late: webdataset imports torch, and who asks for help or for a manifest does without
    from webdataset.tariterators import group_by_keys, tar_file_expander

    path = f"{place}/{shard.name}"
    # The confirmed bytes themselves are read: webdataset opens no file, and takes no damage for an end.
    source = {"url": shard.name, "stream": io.BytesIO(confirmed_bytes(place, shard))}
    samples = images = 0
    try:
        for sample in group_by_keys(tar_file_expander([source])):
            where = f"{path}: {sample['__key__']}"
            suffixes = {name for name in sample if not name.startswith("__")}
            if suffixes != {"png", "json"}:
                raise OperationalError(f"{where}: its members are {sorted(suffixes)}, not a .png and a .json")
            pixels, meta = decode_sample(where, sample["png"], sample["json"])
            samples, images = samples + 1, images + len(pixels)
            yield pixels, meta
    except (tarfile.TarError, ValueError) as error:
        raise OperationalError(f"{path}: not a tar of samples: {error.args[0]}") from error
    if (samples, images) != (shard.samples, shard.images):
        raise OperationalError(
            f"{path}: {samples} samples, {images} images; the manifest has {shard.samples}, {shard.images}"
        )


def decode_sample(where: str, png: bytes, text: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    """A sample's images and meta from its two members' bytes; `where` (shard and key) names it in errors.

    Raises OperationalError for a flipped bit, and for fields that do not fit the images.
    """
    meta = _parse_meta(f"{where}.json", text)
    if hashlib.sha256(png).hexdigest() != meta["png_sha256"]:
        raise OperationalError(f"{where}.png: damaged (sha256 differs)")
    return _decode_png(f"{where}.png", png, tuple(meta["shape"])), meta


def _parse_meta(where: str, text: bytes) -> dict[str, Any]:
    try:
        meta = json.loads(text)
    except ValueError as error:
        raise OperationalError(f"{where}: damaged (not JSON: {error})") from error
    known = {*FIELDS, *_DIGESTS}
    _require(isinstance(meta, dict) and set(meta) == known, where, f"its keys are not {sorted(known)}")
    rest = {field: value for field, value in meta.items() if field != "digest"}
    intact = meta["digest"] == canonical_digest(rest) and text == canonical_json(meta).encode()
    _require(intact, where, "damaged (digest differs)")
    shape = meta["shape"]
    whole = (
        isinstance(shape, list) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)
    )
    _require(whole and np.prod(shape, dtype=object) <= _MAX_PIXELS, where, f"shape {shape} is not [n, H, W]")
    for field in ("drawers", "labels"):
        values = meta[field]
        fits = values is None or (isinstance(values, list) and len(values) == shape[0])
        _require(fits, where, f"{field} does not have the {shape[0]} entries of shape {shape}")
    return meta


def _decode_png(where: str, png: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    count, height, width = shape
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            fits = picture.size == (width, count * height) and picture.mode in ("1", "L")
            _require(fits, where, f"is {picture.mode} {picture.size}, not 1-bit or grey of shape {shape}")
            pixels = np.asarray(picture).astype(np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OperationalError(f"{where}: not a whole PNG: {error}") from error
    return pixels.reshape(shape)


def _require(condition: bool, where: str, problem: str) -> None:
    if not condition:
        raise OperationalError(f"{where}: {problem}")
