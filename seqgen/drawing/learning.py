"""What a model drew while it learned (`seqgen.training.drawings`): a strip of epochs, and an animated GIF of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from seqgen.drawing.animation import gif
from seqgen.drawing.galleries import chosen_steps
from seqgen.drawing.pictures import FRAME, Row, Sheet, render, tile, upscale

_ROWS = 12  # epochs of a strip, at most
_FRAMES = 60  # of an animation, at most
_ALL, _EACH, _LAST = 6000, 400, 2000  # milliseconds: of all frames, of one at most, of the last
_TARGET = 56  # screen pixels of a drawing


def strip(epochs: Sequence[int], drawn: np.ndarray, context: np.ndarray | None) -> Image.Image:
    """A row for each of at most twelve of the epochs, evenly spread; `drawn` is uint8 [len(epochs),n,H,W]."""
    chosen = chosen_steps(len(epochs), _ROWS)
    rows = [Row(_tiles(drawn[place]), f"epoch {epochs[place]}") for place in chosen]
    return render(Sheet([*_head(context), *rows], "What it draws while it learns", _caption(context)))


def film(epochs: Sequence[int], drawn: np.ndarray, context: np.ndarray | None) -> bytes:
    """The same as an animated GIF, a frame an epoch of at most sixty."""
    chosen = chosen_steps(len(epochs), _FRAMES)
    frames = [
        render(
            Sheet([*_head(context), Row(_tiles(drawn[place]))], f"Epoch {epochs[place]}", _caption(context))
        )
        for place in chosen
    ]
    return gif(frames, [min(_EACH, _ALL // len(frames))] * (len(frames) - 1) + [_LAST])


def _head(context: np.ndarray | None) -> list[Row]:
    return [] if context is None else [Row(_tiles(context), "x'", frame=FRAME, gap=4)]


def _caption(context: np.ndarray | None) -> str:
    given = "from the prior" if context is None else "given the held-out drawing in the frame"
    return f"Means of p(x | c_T) {given}, of the same noise each time; averaged weights."


def _tiles(images: np.ndarray) -> list[Image.Image]:
    scale = upscale(images.shape[1], _TARGET)
    return [tile(image / 255, scale) for image in images]
