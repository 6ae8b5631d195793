"""The images of a folder: turned grey, cut square, made small, each of its split."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data_prep.shrink import overlap
from seqgen.core.errors import BadInput

_FORMATS = ("PNG", "JPEG", "PPM")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # of 8 bits a channel and less
_TENTHS = ("test", "valid")  # the others are for train


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
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            if picture.mode not in _MODES:
                raise BadInput(f"{path}: {picture.mode}, not of 8 bits a channel; convert it")
            upright: Image.Image = ImageOps.exif_transpose(picture)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            return 255 - np.asarray(upright.convert("L"))
    except UnidentifiedImageError:
        raise BadInput(f"{path}: not a whole image of {', '.join(_FORMATS)}; remove or replace it") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: not a whole image ({error}); remove or replace it") from error


def square(levels: np.ndarray, size: int) -> np.ndarray:
    """The centred square of `levels` uint8 [H, W] by area averaging: uint8 [size, size], halves rounded up.

    A pixel of the result is the mean of what it covers, of a source pixel that it covers in part that part. In whole
    numbers, so that the bytes are the same everywhere.
    """
    height, width = levels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    rows = overlap(size, side)
    total = (
        rows @ levels[top : top + side, left : left + side].astype(np.float64) @ rows.T
    )  # exact below 2^53
    return ((2 * total.astype(np.int64) + side**2) // (2 * side**2)).astype(np.uint8)
