"""Sheets put together, and tiles made of several."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from seqgen.drawing.galleries import tiles
from seqgen.drawing.pictures import FRAME, TABLE, Colour

SMALL = 56  # screen pixels of an image among several in a tile
_GUTTER, _BORDER = 4, 2


def mosaics(images: Tensor) -> list[Image.Image]:
    """`images` [N,1,H,W] small and framed, four to a square, column by column."""
    small = [framed(image) for image in tiles(images, SMALL)]
    squares = []
    for start in range(0, len(small), 4):
        width, height = small[0].size
        square = Image.new("RGB", (2 * width + _GUTTER, 2 * height + _GUTTER), TABLE)
        for place, image in enumerate(small[start : start + 4]):
            square.paste(image, (place // 2 * (width + _GUTTER), place % 2 * (height + _GUTTER)))
        squares.append(square)
    return squares


def framed(image: Image.Image) -> Image.Image:
    """The tile with a red frame around it."""
    return centred(FRAME, image, image.width + 2 * _BORDER, image.height + 2 * _BORDER)


def stacked(parts: Sequence[Image.Image]) -> Image.Image:
    """Sheets below each other."""
    page = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), TABLE)
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    return page


def beside(parts: Sequence[Image.Image]) -> Image.Image:
    """Sheets side by side."""
    page = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), TABLE)
    left = 0
    for part in parts:
        page.paste(part, (left, 0))
        left += part.width
    return page


def centred(colour: Colour, image: Image.Image, width: int, height: int) -> Image.Image:
    """The tile in the middle of a square of `colour`."""
    square = Image.new("RGB", (width, height), colour)
    square.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return square
