"""The images of a folder: turned grey, filled up to a square, made small, each of its split."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image

from data_prep.shrink import overlap
from seqgen.core.errors import BadInput
from seqgen.data.foreign_pictures import foreign_picture

_FORMATS = ("PNG", "JPEG", "PPM")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of 8 bits a channel and less
# By EXIF's orientation. ImageOps.exif_transpose also writes all other tags anew, and fails at odd ones.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TENTHS = ("test", "valid")  # the others are for train
_MIDDLE = 127
_DRAWN = 32  # levels between lightest and darkest; with fewer nothing is drawn, and the image's own range says nothing


def split_of(name: str, seed: int) -> str:
    """Which split the file `name` is in: by `sha256("<seed>/<name>")` mod 10, 0 test, 1 valid, others train.

    It depends on no other file: what is added later moves none.
    """
    tenth = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest(), "big") % 10
    return _TENTHS[tenth] if tenth < len(_TENTHS) else "train"


def ink(content: bytes, path: Path) -> np.ndarray:
    """An image file's ink uint8 [H, W]: 255 is black and 0 white, as digits have it; upright as its EXIF says.

    Colour by ITU-R 601, what is transparent on white. Raises BadInput naming `path` where it is no whole image of 8
    bits.
    """
    with foreign_picture(io.BytesIO(content), _FORMATS, str(path), "remove or replace it") as picture:
        if picture.mode not in _MODES:
            raise BadInput(f"{path}: {picture.mode}, not of 8 bits a channel; convert it")
        picture.load()
        turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
        upright: Image.Image = picture if turn is None else picture.transpose(turn)
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        return 255 - np.asarray(upright.convert("L"))


def longer_side(path: Path) -> int | None:
    """The longer side in pixels of an image file, of which the beginning is read; None if that tells none."""
    try:
        with foreign_picture(path, _FORMATS, str(path), "") as picture:
            return max(picture.size)
    except BadInput:
        return None


def paper_of(levels: np.ndarray) -> Literal["light", "dark"]:
    """What the outermost pixels of `levels` uint8 [H, W] (255 black) mostly are, beside the image's own range."""
    edge = np.concatenate([levels[0], levels[-1], levels[1:-1, 0], levels[1:-1, -1]])
    return "dark" if np.median(edge) > _middle(levels) else "light"


def paper_level(levels: np.ndarray, paper: Literal["light", "dark"]) -> int:
    """The level of the paper in `levels` uint8 [H, W] (255 black): the median on the paper's side of its range.

    White or black where none of it is seen.
    """
    middle = _middle(levels)
    side = levels[levels > middle] if paper == "dark" else levels[levels <= middle]
    if not side.size:
        return 255 if paper == "dark" else 0
    return int(np.partition(side, side.size // 2)[side.size // 2])


def square(levels: np.ndarray, size: int, fill: int) -> np.ndarray:
    """The image `levels` uint8 [H, W] in the centre of a square, by area averaging: uint8 [size, size].

    The square's side is the longer of H and W; its rest has the level `fill`. A pixel of the result is the mean of
    what it covers, of a source pixel that it covers in part that part, halves rounded up. In whole numbers, so that the
    bytes are the same everywhere.
    """
    height, width = levels.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    covered = overlap(size, side)
    rows, columns = covered[:, top : top + height], covered[:, left : left + width]
    beyond = rows @ (levels.astype(np.float64) - fill) @ columns.T  # exact below 2^53
    total = beyond.astype(np.int64) + fill * side**2
    return ((2 * total + side**2) // (2 * side**2)).astype(np.uint8)


def _middle(levels: np.ndarray) -> float:
    low, high = int(levels.min()), int(levels.max())
    return (low + high) / 2 if high - low >= _DRAWN else _MIDDLE
