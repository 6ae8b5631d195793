"""Which pixels of an image are missing: masks by name, or from a picture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqgen.core.errors import BadInput
from seqgen.data.batches import generator_at
from seqgen.data.foreign_pictures import foreign_picture

NAMES = "left, right, top, bottom, centre, random:0.5 (any share), or a PNG file (white is missing)"


def missing_pixels(name: str, height: int, width: int, seed: int) -> Tensor:
    """The mask of that name, bool [1,H,W], true where a pixel is missing; the same for every image.

    Halves leave a middle row or column in place, `centre` is a square of half the image's sides, `random:p` each pixel
    with probability p, drawn from `seed`. Raises BadInput for another name, for a picture of another size, and where
    nothing or everything is missing.
    """
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    word, _, share = name.partition(":")
    if word == "random":
        mask = torch.rand(mask.shape, generator=_generator(name, seed)) < _share(name, share)
    elif name in (halves := _halves(height, width)):
        mask[0][halves[name]] = True
    elif name.lower().endswith(".png"):
        mask[0] = _from_picture(Path(name), height, width)
    else:
        raise BadInput(f"mask {name}: no such mask; there are {NAMES}")
    if mask.all() or not mask.any():
        what = "every pixel is" if mask.all() else "no pixel is"
        raise BadInput(f"mask {name}: {what} missing of {height}x{width}; leave some, and take some away")
    return mask


def label_of(name: str) -> str:
    """The mask's name as part of a number's name: a file's without its folder and ending, letters and digits only."""
    word, _, share = name.partition(":")
    return f"{word}_{100 * _share(name, share):g}" if share else re.sub(r"\W+", "_", Path(name).stem)


def _halves(height: int, width: int) -> dict[str, tuple[slice, slice]]:
    rows, columns = height // 2, width // 2
    every = slice(None)
    up, left = (height - rows) // 2, (width - columns) // 2
    return {
        "left": (every, slice(columns)),
        "right": (every, slice(width - columns, None)),
        "top": (slice(rows), every),
        "bottom": (slice(height - rows, None), every),
        "centre": (slice(up, up + rows), slice(left, left + columns)),
    }


def _generator(name: str, seed: int) -> torch.Generator:
    return generator_at(torch.device("cpu"), seed, "mask", name)


def _share(name: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise BadInput(f"mask {name}: a share between 0 and 1 is needed, as in random:0.5")
    return share


def _from_picture(path: Path, height: int, width: int) -> Tensor:
    """White, that is above half, is missing: bool [H,W]."""
    if not path.exists():
        raise BadInput(f"mask {path}: no such file")
    with foreign_picture(path, ["PNG"], f"mask {path}", "give a PNG file") as picture:
        grey = np.array(picture.convert("L"))
    if grey.shape != (height, width):
        rows, columns = grey.shape
        raise BadInput(
            f"mask {path}: {rows}x{columns} pixels (rows x columns), the images have {height}x{width}; "
            "draw it in their size"
        )
    return torch.from_numpy(grey > 127)
