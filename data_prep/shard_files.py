"""One shard as it is written: a webdataset tar of `<key>.png` + `<key>.json` pairs, the same bytes on every run.

A tar has no checksum over its payloads, so every sample carries its own: `png_sha256` over the PNG, `digest` over the
JSON's other fields.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from seqgen.core.files import atomic_writer, canonical_digest, canonical_json, file_sha256
from seqgen.data.manifest import Shard


class EncodedSample(NamedTuple):
    """A sample's key (ASCII without a dot), the bytes of its two members, and how many images they hold."""

    key: str
    png: bytes
    json: bytes
    images: int


def encode_sample(key: str, images: np.ndarray, levels: int, meta: dict[str, Any]) -> EncodedSample:
    """Encode `images`, uint8 [n, H, W], in {0, 1} for `levels` 2 (1-bit PNG, ink = 1) and 0..255 for 256.

    `meta` holds `seqgen.data.shards.FIELDS` without `shape`.
    """
    count, height, width = images.shape
    stacked = images.reshape(count * height, width)
    picture = Image.fromarray(stacked.astype(bool) if levels == 2 else stacked)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=6)
    png = buffer.getvalue()
    fields = {**meta, "shape": [count, height, width], "png_sha256": hashlib.sha256(png).hexdigest()}
    text = canonical_json({**fields, "digest": canonical_digest(fields)}).encode()
    return EncodedSample(key, png, text, count)


def write_shard(path: Path, samples: Iterable[EncodedSample]) -> Shard:
    """Write a tar whose bytes depend on the samples alone, atomically; its manifest entry."""
    # webdataset imports torch (a second of CPU): once, here, not in the processes that encode
    from webdataset import TarWriter

    # mtime is an int, because a float adds a header of its own to every member
    plain: dict[str, Any] = {"encoder": False, "mtime": 0, "user": "", "group": "", "mode": 0o644}
    written = images = 0
    with atomic_writer(path) as stream, TarWriter(stream, **plain) as tar:
        for sample in samples:
            # one call a member, because a call sorts its members and the PNG comes first
            tar.write({"__key__": sample.key, "png": sample.png})
            tar.write({"__key__": sample.key, "json": sample.json})
            written, images = written + 1, images + sample.images
    return Shard(
        name=path.name, sha256=file_sha256(path), bytes=path.stat().st_size, samples=written, images=images
    )
