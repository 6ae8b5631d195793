"""MNIST's IDX files (gzip): read to the byte or refused with the offset of what is wrong."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from seqgen.core.errors import BadInput

SIDE = 28
_IMAGES, _LABELS = 0x00000803, 0x00000801  # unsigned bytes in 3 and in 1 dimensions
_MAX_ITEMS = 1_000_000


def read_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28] (0 paper, 255 ink) and labels uint8 [N] in 0..9. Raises BadInput."""
    pixels, digits = read_images(images), read_labels(labels)
    if len(pixels) != len(digits):
        raise BadInput(
            f"{labels}: offset 4: {len(digits)} labels, but {images.name} has {len(pixels)} images; "
            "fetch both again"
        )
    return pixels, digits


def read_images(path: Path) -> np.ndarray:
    """uint8 [N, 28, 28]."""
    return _read(path, _IMAGES, (SIDE, SIDE))


def read_labels(path: Path) -> np.ndarray:
    """uint8 [N] in 0..9."""
    labels = _read(path, _LABELS, ())
    wrong = np.flatnonzero(labels > 9)
    if wrong.size:
        raise BadInput(f"{path}: offset {8 + wrong[0]}: label {labels[wrong[0]]}, not 0 to 9; fetch it again")
    return labels


def _read(path: Path, magic: int, item: tuple[int, ...]) -> np.ndarray:
    header_size = 8 + 4 * len(item)
    try:
        with gzip.open(path) as stream:
            header = np.frombuffer(stream.read(header_size), np.uint8)
            if len(header) < header_size:
                raise _wrong(path, len(header), f"ends within the header of {header_size} bytes")
            found, count, *sides = (int(word) for word in header.view(">u4"))
            if found != magic:
                raise _wrong(path, 0, f"magic number 0x{found:08x}, not 0x{magic:08x}")
            if count > _MAX_ITEMS:
                raise _wrong(path, 4, f"{count} items; at most {_MAX_ITEMS} are accepted")
            if tuple(sides) != item:
                raise _wrong(path, 8, f"items of {sides}, not {list(item)}")
            size = count * int(np.prod(item, dtype=int))
            content = stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    if len(content) < size:
        raise _wrong(path, header_size + len(content), f"ends here; {count} items need {size} bytes")
    if len(content) > size:
        raise _wrong(path, header_size + size, f"bytes after the last of {count} items")
    return np.frombuffer(content, np.uint8).reshape(count, *item)


def _wrong(path: Path, offset: int, problem: str) -> BadInput:
    return BadInput(f"{path}: offset {offset}: {problem}; fetch it again")
