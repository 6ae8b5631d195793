"""One shard: a plain webdataset tar of `<key>.png` + `<key>.json` pairs, written and read to the byte.

A tar has no checksum over its payloads and its readers take a cut or a bad header for the end, so every
sample carries its own: `png_sha256` over the PNG, `digest` over the JSON's other fields. Written with the
standard library: `webdataset` imports torch, and stock webdataset reads these files all the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seqgen.core.errors import OperationalError
from seqgen.core.files import canonical_digest, canonical_json, write_bytes

FIELDS = ("dataset", "alphabet", "character", "concept", "drawers", "labels", "shape")
_BLOCK = tarfile.BLOCKSIZE
_MAX_PIXELS = 2**26  # of one sample; the largest written here has 500 x 64 x 64


def encode_sample(images: np.ndarray, levels: int, meta: dict[str, Any]) -> tuple[bytes, bytes]:
    """The PNG and JSON bytes of one sample.

    `images` is uint8 [n, H, W], in {0, 1} for `levels` 2 (1-bit PNG, ink = 1) and 0..255 for 256; `meta`
    holds `FIELDS` without `shape`.
    """
    count, height, width = images.shape
    stacked = images.reshape(count * height, width)
    picture = Image.fromarray(stacked.astype(bool) if levels == 2 else stacked)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=6)
    png = buffer.getvalue()
    fields = {**meta, "shape": [count, height, width], "png_sha256": hashlib.sha256(png).hexdigest()}
    return png, canonical_json({**fields, "digest": canonical_digest(fields)}).encode()


def write_shard(path: Path, samples: Iterable[tuple[str, bytes, bytes]]) -> None:
    """Write (key, png, json) samples to a tar whose bytes depend on nothing else. Keys hold no dot."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, png, meta in samples:
            for suffix, content in ((".png", png), (".json", meta)):
                member = tarfile.TarInfo(key + suffix)  # mtime, uid, gid 0; no user or group name; mode 0644
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    write_bytes(path, buffer.getvalue())


def read_shard(path: Path) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield (images uint8 [n, H, W], meta) for each sample, in the order of the file.

    `images` is in {0, 1} for a 1-bit PNG, else 0..255. Raises OperationalError naming the shard and the
    member for every damage: a cut, a flipped bit, a half sample, mixed or repeated keys, another kind of
    member.
    """
    seen: set[str] = set()
    members = _members(path)
    for name, png in members:
        key, dot, suffix = name.partition(".")
        _require(bool(dot and key) and suffix == "png", path, name, "a sample starts with <key>.png")
        _require(key not in seen, path, name, f"key {key!r} stands twice")
        seen.add(key)
        follower, text = next(members, ("", b""))
        _require(
            follower == f"{key}.json", path, name, f"its {key}.json does not follow: {follower or 'end'}"
        )
        meta = _parse_meta(path, follower, text)
        _require(
            hashlib.sha256(png).hexdigest() == meta["png_sha256"], path, name, "damaged (sha256 differs)"
        )
        yield _decode(path, name, png, tuple(meta["shape"])), meta


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every member's name and bytes; what is not a plain file, and any byte outside members, is refused."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OperationalError(f"{path}: cannot be read: {error.strerror}") from error
    last, end = "the start", 0
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                _require(member.type == tarfile.REGTYPE, path, member.name, "not a plain file")
                _require(member.offset == end, path, member.name, f"does not follow {last}")
                stop = member.offset_data + member.size
                end = -(-stop // _BLOCK) * _BLOCK
                _require(end <= len(content), path, member.name, "cut short")
                _require(not any(content[stop:end]), path, member.name, "bytes in its padding")
                yield member.name, content[member.offset_data : stop]
                last = member.name
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise OperationalError(f"{path}: damaged after {last}: {error}") from error
    # tarfile takes a damaged header for the end of the archive: only two blocks of zeros are one.
    if len(content) - end < 2 * _BLOCK or any(content[end:]):
        raise OperationalError(f"{path}: damaged or cut after {last}: no end of archive at byte {end}")


def _parse_meta(path: Path, name: str, text: bytes) -> dict[str, Any]:
    try:
        meta = json.loads(text)
    except ValueError as error:
        raise OperationalError(f"{path}: {name}: damaged (not JSON: {error})") from error
    known = {*FIELDS, "png_sha256", "digest"}
    _require(isinstance(meta, dict) and set(meta) == known, path, name, f"its keys are not {sorted(known)}")
    rest = {field: value for field, value in meta.items() if field != "digest"}
    intact = meta["digest"] == canonical_digest(rest) and text == canonical_json(meta).encode()
    _require(intact, path, name, "damaged (digest differs)")
    shape = meta["shape"]
    whole = (
        isinstance(shape, list) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)
    )
    _require(
        whole and np.prod(shape, dtype=object) <= _MAX_PIXELS, path, name, f"shape {shape} is not [n, H, W]"
    )
    for field in ("drawers", "labels"):
        values = meta[field]
        fits = values is None or (isinstance(values, list) and len(values) == shape[0])
        _require(fits, path, name, f"{field} does not have the {shape[0]} entries of shape {shape}")
    return meta


def _decode(path: Path, name: str, png: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    count, height, width = shape
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            fits = picture.size == (width, count * height) and picture.mode in ("1", "L")
            _require(
                fits, path, name, f"is {picture.mode} {picture.size}, not 1-bit or grey of shape {shape}"
            )
            pixels = np.asarray(picture).astype(np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OperationalError(f"{path}: {name}: not a whole PNG: {error}") from error
    return pixels.reshape(shape)


def _require(condition: bool, path: Path, member: str, problem: str) -> None:
    if not condition:
        raise OperationalError(f"{path}: {member}: {problem}")
