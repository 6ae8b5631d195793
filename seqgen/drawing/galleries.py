"""What a model draws, as picture sheets: samples, reconstructions, the canvas step by step, new exemplars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seqgen.drawing.pictures import (
    CONTEXT,
    FRAME,
    READ,
    WRITE,
    Colour,
    Row,
    Sheet,
    outline,
    render,
    tile,
    upscale,
)
from seqgen.evaluation.bounds import HeldOut, first_of_each, subset
from seqgen.models import SequentialModel


@torch.no_grad()
def draw_sheets(model: SequentialModel, held_out: HeldOut, seed: int) -> dict[str, Image.Image]:
    """Every sheet by name, `exemplars` for a conditional model only. The same seed gives the same bytes."""
    sheets = {
        "samples": _samples(model, held_out, seed),
        "reconstructions": _reconstructions(model, held_out, seed),
        "canvas": _canvas(model, held_out, seed),
    }
    if model.config.conditional:
        sheets["exemplars"] = _exemplars(model, held_out, seed)
    return sheets


def _samples(model: SequentialModel, held_out: HeldOut, seed: int, side: int = 10) -> Image.Image:
    contexts = _pick(model, held_out, side * side, seed)[1]
    drawn = model.sample(_noise(model, side * side, seed), contexts)
    images = tiles(drawn)
    origin = "each given a held-out image of one concept" if contexts is not None else "drawn from the prior"
    return render(
        Sheet(
            [Row(images[start : start + side]) for start in range(0, len(images), side)],
            title="Samples",
            caption=f"{len(images)} {model.step.observation.pictures}, {origin}, T = {model.config.steps}.",
        )
    )


def _reconstructions(
    model: SequentialModel, held_out: HeldOut, seed: int, columns: int = 10, bands: int = 4
) -> Image.Image:
    x, context = _pick(model, held_out, columns * bands, seed)
    trace = model.trace(_noise(model, len(x), seed), x, context)
    originals, drawn = tiles(x), tiles(trace.canvas[-1])
    rows = []
    for start in range(0, len(originals), columns):
        part = slice(start, start + columns)
        gap = 10 if start else 0
        rows.append(Row(originals[part], "x", gap))
        rows.append(Row(drawn[part], "drawn"))
    return render(
        Sheet(
            rows,
            title="Reconstructions",
            caption=f"Rows x: held-out images. Rows below: {model.step.observation.pictures}, z drawn from q(z | x).",
        )
    )


def _canvas(
    model: SequentialModel, held_out: HeldOut, seed: int, count: int = 3, columns: int = 10
) -> Image.Image:
    x, context = _pick(model, held_out, count, seed)
    steps = chosen_steps(model.config.steps, columns)
    scale = upscale(model.sizes.height, 112)
    posterior = model.trace(_noise(model, count, seed), x, context)
    prior = model.trace(_noise(model, count, seed + 1), None, context)

    def marked(images: Tensor, image: int, *windows: tuple[Colour, Tensor | None]) -> list[Image.Image]:
        result = []
        for step in steps:
            picture = tile(_arrays(images[step])[image], scale)
            for depth, (colour, corners) in enumerate(windows, start=1):
                if corners is not None:  # the one below is drawn wider: both show where they coincide
                    width = 2 * (len(windows) - depth + 1)
                    for window in corners[step, image].cpu().numpy():
                        outline(picture, window, scale, colour, width)
            result.append(picture)
        return result

    rows = []
    originals = [tile(image, scale) for image in _arrays(x)]
    for image in range(count):
        tiles = marked(posterior.canvas, image, (READ, posterior.read), (WRITE, posterior.write))
        rows.append(Row([originals[image], *tiles], "of x"))
    for image in range(count):
        gap = 14 if image == 0 or context is not None else 0
        if context is not None:
            still = context.expand(model.config.steps, *context.shape)
            looked = marked(still, image, (CONTEXT, prior.context_read))
            rows.append(Row([tile(_arrays(context)[image], scale), *looked], "x' seen", gap))
            gap = 0
        rows.append(Row([None, *marked(prior.canvas, image, (WRITE, prior.write))], "sample", gap))

    legend = [
        (READ, "window read from x", posterior.read),
        (WRITE, "window written on the canvas", posterior.write),
        (CONTEXT, "window read from the context x'", prior.context_read),
    ]
    first = "x" if context is None else "x, x'"
    return render(
        Sheet(
            rows,
            title=f"The canvas, step by step (T = {model.config.steps})",
            caption=f"Shown are {model.step.observation.pictures}. Upper rows: of held-out x. Lower rows: samples. "
            "A window that reaches beyond the image is cut at its border.",
            heads=[first, *(f"c {step + 1}" for step in steps)],
            legend=[(colour, text) for colour, text, corners in legend if corners is not None],
        )
    )


def _exemplars(
    model: SequentialModel, held_out: HeldOut, seed: int, columns: int = 10, rows: int = 10
) -> Image.Image:
    """As in the paper's figures 9 and 10: contexts of different concepts in a red frame, samples below."""
    first = first_of_each(held_out.concepts)
    columns = min(columns, len(first))
    chosen = first[subset(len(first), columns, seed, "pictures")]
    context = held_out.x[chosen].to(next(model.parameters()).device).float()
    drawn = model.sample(_noise(model, rows * columns, seed), context.repeat(rows, 1, 1, 1))
    return render(
        Sheet(
            exemplar_rows(tiles(context), tiles(drawn)),
            title="New exemplars",
            caption="In the frame: one held-out image of each concept. Below it: samples given that alone.",
        )
    )


def exemplar_rows(context: Sequence[Image.Image], drawn: Sequence[Image.Image]) -> list[Row]:
    """The tiles of C contexts in a red frame; below each what was `drawn` of it, R C tiles row by row."""
    rows = [Row(drawn[start : start + len(context)]) for start in range(0, len(drawn), len(context))]
    return [Row(context, "x'", frame=FRAME), replace(rows[0], gap=10), *rows[1:]]


def tiles(images: Tensor, target: int = 84) -> list[Image.Image]:
    """`images` [N,1,H,W] of ink in [0,1] as tiles about `target` screen pixels high."""
    scale = upscale(images.shape[2], target)
    return [tile(image, scale) for image in _arrays(images)]


def chosen_steps(total: int, count: int) -> list[int]:
    """At most `count` step indices from the first to the last, evenly spread."""
    if total <= count:
        return list(range(total))
    return sorted({round(index) for index in np.linspace(0, total - 1, count)})


def _pick(model: SequentialModel, held_out: HeldOut, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """`count` held-out images at random (repeated where the split is smaller), on the model's device."""
    device = next(model.parameters()).device
    index = subset(len(held_out), count, seed, "pictures")
    index = index[torch.arange(count) % len(index)]
    context = None if held_out.context is None else held_out.context[index].to(device).float()
    return held_out.x[index].to(device).float(), context


def _noise(model: SequentialModel, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return model.noise(count, generator).to(next(model.parameters()).device)


def _arrays(images: Tensor) -> np.ndarray:
    return images[:, 0].float().cpu().numpy()


def scaled(temperature: float) -> str:
    """What a caption adds where the prior's noise is not as the model has it."""
    return "" if temperature == 1 else f", the prior's noise scaled by {temperature:g}"
