"""Sheets of what latent variables are for: missing pixels drawn anew, and the way from one image to another."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from seqgen.drawing.galleries import tiles
from seqgen.drawing.pictures import FRAME, READ, Row, Sheet, render, upscale
from seqgen.evaluation.imputation import Imputed
from seqgen.evaluation.interpolation import Ends

_STEPS = (1, 2, 5, 10, 20, 50, 100)  # of the chain, of those that it has, beside the last one
_TINT = 64  # of 255


def imputed(x: Tensor, missing: Tensor, found: Imputed, title: str, caption: str) -> Image.Image:
    """The observed pixels of `x` [B,1,H,W], the chain at some of its steps, the mean of its last half, and x."""
    last = len(found.states) - 1
    chain = {"start": 0, **{f"step {step}": step for step in (*(s for s in _STEPS if s < last), last)}}
    rows = [
        Row(tinted(x.where(~missing, x.new_zeros(())), missing), "observed", frame=FRAME),
        *(Row(tinted(found.states[step], missing), name, 0 if step else 10) for name, step in chain.items()),
        Row(tinted(found.mean, missing), "mean", 10),
        Row(tiles(x), "x"),
    ]
    return render(Sheet(rows, title, caption))


def ways(ends: Ends, drawn: Tensor, title: str, caption: str) -> Image.Image:
    """A way a row: an image, `drawn` [P,N,1,H,W] from its z to the other's, the other image; x' first, if given."""
    parts = [ends.first, *drawn, ends.second]
    last = len(drawn) - 1
    heads = ["x", *(f"{100 * point / last:g} %" for point in range(len(drawn))), "x"]
    if ends.context is not None:
        parts, heads = [ends.context, *parts], ["x'", *heads]
    columns = [tiles(part[: drawn.shape[1]], 56) for part in parts]
    return render(Sheet([Row(row) for row in zip(*columns, strict=True)], title, caption, heads))


def tinted(images: Tensor, missing: Tensor) -> list[Image.Image]:
    """Tiles of `images` [N,1,H,W] with a blue veil over the missing pixels, bool [1,H,W]."""
    scale = upscale(images.shape[2], 84)
    veil = Image.fromarray(
        (_TINT * missing[0].cpu().numpy()).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    )
    result = tiles(images)
    for image in result:
        image.paste(READ, mask=veil)
    return result
