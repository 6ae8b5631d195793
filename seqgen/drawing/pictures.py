"""Sheets of small images: crisp upscaling, gutters, window outlines, captions; the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

PAPER: Colour = (255, 255, 255)
INK: Colour = (16, 18, 28)
TABLE: Colour = (208, 216, 228)  # what the tiles lie on; bluish, so that grey ink stands out from it
TEXT: Colour = (60, 64, 72)
# Okabe and Ito's colours, told apart with any colour vision.
WRITE: Colour = (213, 94, 0)
READ: Colour = (0, 114, 178)
CONTEXT: Colour = (0, 158, 115)
FRAME: Colour = (214, 32, 32)

_GUTTER = 4
_MARGIN = 14


@dataclass(frozen=True)
class Row:
    """One row of tiles. `label` stands on its left, `gap` is extra room above it, `frame` a box around it."""

    tiles: Sequence[Image.Image | None]
    label: str = ""
    gap: int = 0
    frame: Colour | None = None


@dataclass(frozen=True)
class Sheet:
    """Rows of equally large tiles under a title, with column heads, a legend of colours and a caption."""

    rows: Sequence[Row]
    title: str
    caption: str = ""
    heads: Sequence[str] = ()
    legend: Sequence[tuple[Colour, str]] = field(default=())


def upscale(height: int, target: int) -> int:
    """The integer factor that brings `height` pixels nearest to `target`, at least 1."""
    return max(1, round(target / height))


def tile(probabilities: np.ndarray, scale: int) -> Image.Image:
    """`probabilities` [H,W] of ink as dark on white, each pixel a square of `scale` screen pixels."""
    ink = np.clip(np.asarray(probabilities, dtype=np.float64), 0, 1)[..., None]
    rgb = np.rint(np.array(PAPER) * (1 - ink) + np.array(INK) * ink).astype(np.uint8)
    return Image.fromarray(rgb.repeat(scale, 0).repeat(scale, 1))


def outline(image: Image.Image, corners: np.ndarray, scale: int, colour: Colour, width: int = 2) -> None:
    """Draw the quadrilateral `corners` [4,2], (x, y) in pixels of the small image, on the upscaled `image`.

    (0, 0) is the image's upper left edge. What reaches beyond the tile is cut at its border, so that a window
    larger than the image still shows. Where the two do not meet nothing is drawn.
    """
    inset = width / 2
    ring = [(float(x) * scale, float(y) * scale) for x, y in corners]
    ring = clip(ring, inset, inset, image.width - inset, image.height - inset)
    if not ring:
        return
    # Distance of every pixel's centre to the nearest edge: smooth lines, `width` pixels wide to the pixel.
    rows, columns = np.mgrid[: image.height, : image.width] + 0.5
    distance = np.full(rows.shape, np.inf)
    for (x, y), (next_x, next_y) in zip(ring, ring[1:] + ring[:1], strict=True):
        along, down = next_x - x, next_y - y
        length = along**2 + down**2
        share = ((columns - x) * along + (rows - y) * down) / length if length else np.zeros(rows.shape)
        share = share.clip(0, 1)
        distance = np.minimum(distance, np.hypot(columns - x - share * along, rows - y - share * down))
    cover = (inset + 0.5 - distance).clip(0, 1)
    image.paste(colour, mask=Image.fromarray(np.rint(255 * cover).astype(np.uint8)))


def clip(points: Sequence[Point], left: float, top: float, right: float, bottom: float) -> list[Point]:
    """The part of a convex polygon inside a rectangle (Sutherland and Hodgman); empty if they do not meet."""
    result = list(points)
    for axis, limit, sign in ((0, left, 1), (0, right, -1), (1, top, 1), (1, bottom, -1)):
        before, result = result, []
        for here, there in zip(before, before[1:] + before[:1], strict=True):
            a, b = sign * (here[axis] - limit), sign * (there[axis] - limit)
            if a >= 0:
                result.append(here)
            if (a >= 0) != (b >= 0):
                share = a / (a - b)
                result.append(
                    (here[0] + share * (there[0] - here[0]), here[1] + share * (there[1] - here[1]))
                )
    return result


def render(sheet: Sheet) -> Image.Image:
    """Lay the sheet out: RGB."""
    tiles = [image for row in sheet.rows for image in row.tiles if image is not None]
    width, height = tiles[0].size
    columns = max(len(row.tiles) for row in sheet.rows)
    label_width = max((int(_font(13).getlength(row.label)) + 8 for row in sheet.rows if row.label), default=0)
    left = _MARGIN + label_width
    inner = columns * (width + _GUTTER) - _GUTTER
    total = max(left + inner + _MARGIN, int(_font(17).getlength(sheet.title)) + 2 * _MARGIN)
    legend = [" " * 7 + text for _, text in sheet.legend]
    caption = wrap(sheet.caption, total - 2 * _MARGIN, 13)

    top = _MARGIN + 26 + 18 * len(caption) + (20 if legend else 0) + (20 if sheet.heads else 0) + 2
    bottom = top + sum(height + _GUTTER + row.gap for row in sheet.rows) - _GUTTER + _MARGIN
    page = Image.new("RGB", (total, bottom), TABLE)
    draw = ImageDraw.Draw(page)

    y = _MARGIN - 4
    draw.text((_MARGIN, y), sheet.title, INK, _font(17))
    y += 26
    for line in caption:
        draw.text((_MARGIN, y), line, TEXT, _font(13))
        y += 18
    x = float(_MARGIN)
    for (colour, _), text in zip(sheet.legend, legend, strict=True):
        draw.line([(x, y + 9), (x + 18, y + 9)], fill=colour, width=3)
        draw.text((x, y), text, TEXT, _font(13))
        x += _font(13).getlength(text) + 22
    y = top - 18
    for column, head in enumerate(sheet.heads):
        draw.text((left + column * (width + _GUTTER) + width / 2, y), head, TEXT, _font(13), anchor="ma")

    y = top
    for row in sheet.rows:
        y += row.gap
        if row.frame:
            box = (left - 4, y - 4, left + inner + 3, y + height + 3)
            draw.rectangle(box, outline=row.frame, width=3)
        if row.label:
            draw.text((_MARGIN, y + height / 2), row.label, TEXT, _font(13), anchor="lm")
        for column, image in enumerate(row.tiles):
            if image is not None:
                page.paste(image, (left + column * (width + _GUTTER), y))
        y += height + _GUTTER
    return page


def png(image: Image.Image) -> bytes:
    """The picture as PNG bytes."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def wrap(text: str, width: int, size: int) -> list[str]:
    """`text` in lines of at most `width` screen pixels, broken at spaces."""
    lines: list[str] = []
    for word in text.split():
        if lines and _font(size).getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
