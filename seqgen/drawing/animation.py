"""A drawing as it comes about: the canvas step by step as an animated GIF, the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seqgen.data.batches import generator_at
from seqgen.drawing.galleries import chosen_steps, exemplar_rows, scaled, tiles
from seqgen.drawing.pictures import (
    FRAME,
    INK,
    PAPER,
    TABLE,
    TEXT,
    WRITE,
    Colour,
    Sheet,
    outline,
    render,
)
from seqgen.evaluation.bounds import HeldOut, first_of_each, subset
from seqgen.models import SequentialModel, Trace

LIMIT = 1_500_000  # bytes
_ROWS_AND_STEPS = ((4, 20), (2, 20), (2, 10), (1, 10))  # at most; the first that is within the limit
_DRAWING, _STEP, _LAST = 4000, 500, 3000  # milliseconds: of all steps, of one at most, of the last frame


def animation(
    model: SequentialModel,
    held_out: HeldOut,
    data: str,
    seed: int,
    columns: int = 10,
    temperature: float = 1.0,
) -> bytes:
    """Samples of `columns` held-out characters while they are drawn, the context of each in a frame, as a GIF.

    Four rows and at most 20 steps are shown, or fewer so that it is not too large to be put on a page. The window that
    a step writes through is outlined; the last frame is c_T alone. `data` is the set's title; `temperature` multiplies
    the prior's noise.
    """
    device = next(model.parameters()).device
    first = first_of_each(held_out.concepts)
    context = held_out.x[first[subset(len(first), columns, seed, "exemplars")]]
    most = _ROWS_AND_STEPS[0][0]
    generator = generator_at(torch.device("cpu"), seed, "animation")
    noise = temperature * model.noise(most * len(context), generator).to(device)
    trace = model.trace(noise, None, context.repeat(most, 1, 1, 1).to(device).float())
    caption = (
        f"{data}. In the frame: one held-out drawing x' of each character. Below it: means of p(x | c_t), given that "
        f"drawing alone{scaled(temperature)}. Seed {seed}, not selected."
    )
    for rows, steps in _ROWS_AND_STEPS:
        shown = chosen_steps(model.config.steps, steps)
        frames = [_frame(trace, context, step, rows, caption, windows=True) for step in shown]
        frames.append(_frame(trace, context, shown[-1], rows, caption, windows=False))
        content = gif(frames, [min(_STEP, _DRAWING // len(shown))] * len(shown) + [_LAST])
        if len(content) <= LIMIT:
            break
    return content


def _frame(
    trace: Trace, context: Tensor, step: int, rows: int, caption: str, *, windows: bool
) -> Image.Image:
    """The sheet of `context` [C,1,H,W] and c_t of the first `rows` rows, as it stands after `step` (from 0)."""
    drawn = tiles(trace.canvas[step, : rows * len(context)])
    legend = []
    if trace.write is not None:
        legend = [(WRITE, "window that the step writes through")]
        scale = drawn[0].height // context.shape[2]
        for image, corners in zip(drawn, trace.write[step].cpu().numpy(), strict=False):
            for window in corners if windows else ():
                outline(image, window, scale, WRITE)
    title = f"Drawn step by step: t = {step + 1} of {len(trace.canvas)}"
    return render(Sheet(exemplar_rows(tiles(context), drawn), title, caption, legend=legend))


def gif(frames: Sequence[Image.Image], milliseconds: Sequence[int]) -> bytes:
    """The `frames`, each shown so long, again and again, in the nearest colours of one fixed palette."""
    palette = _palette()
    stream = io.BytesIO()
    first, *others = (_indexed(frame, palette) for frame in frames)
    first.save(
        stream,
        "GIF",
        save_all=True,
        append_images=others,
        duration=list(milliseconds),
        loop=0,
        optimize=False,
    )
    return stream.getvalue()


def _palette() -> np.ndarray:
    """The colours of a sheet and what lies between two that meet in it, uint8 [81,3]."""

    def between(one: Colour, other: Colour, count: int) -> np.ndarray:
        return np.linspace(one, other, count)

    ramps = [
        between(PAPER, INK, 32),
        between(TABLE, INK, 12),
        between(TABLE, TEXT, 12),
        between(PAPER, WRITE, 12),
        between(INK, WRITE, 12),
        between(FRAME, FRAME, 1),
    ]
    return np.rint(np.concatenate(ramps)).astype(np.uint8)


def _indexed(image: Image.Image, palette: np.ndarray) -> Image.Image:
    """The picture in the colours of `palette` [81,3], each pixel's nearest."""
    colours = np.array([colour for _, colour in image.getcolors(image.width * image.height) or ()])
    nearest = ((colours[:, None] - palette.astype(int)) ** 2).sum(2).argmin(1)
    place_of = np.zeros(1 << 24, np.uint8)
    place_of[_packed(colours)] = nearest
    indexed = Image.fromarray(place_of[_packed(np.asarray(image))], "P")
    indexed.putpalette(palette.tobytes())
    return indexed


def _packed(colours: np.ndarray) -> np.ndarray:
    """One number a colour, [...,3] -> int64 [...]."""
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    return red << 16 | green << 8 | blue
