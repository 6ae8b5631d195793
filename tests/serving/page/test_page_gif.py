"""The page's GIF encoder against Pillow's decoder."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.serve_process import ServeProcess
from tests.serving.page.sheet import Sheet

pytestmark = pytest.mark.slow

ENCODE = """async ([width, height, palette, frames, delays]) => {
  const { gif } = await import("/static/gif.js");
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const encoded = gif(width, height, palette, frames.map(bytes), delays);
  return btoa(Array.from(encoded, (byte) => String.fromCharCode(byte)).join(""));
}"""


def encoded(sheet: Sheet, frames: np.ndarray, palette: np.ndarray, delays: list[int]) -> Image.Image:
    """`frames` uint8 [T,H,W] of indices into `palette` uint8 [N,3]."""
    _, height, width = frames.shape
    sent = [base64.b64encode(frame.tobytes()).decode() for frame in frames]
    text = sheet.page.evaluate(ENCODE, [width, height, palette.tolist(), sent, delays])
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize(
    ("shape", "colours"),
    [((3, 90, 130), 256), ((2, 300, 200), 2), ((2, 64, 64), 1), ((2, 1, 1), 256), ((4, 40, 41), 7)],
    ids=["noise that fills the table", "black and white", "one colour", "one pixel", "seven colours"],
)
def test_frames_come_back(
    conditional: ServeProcess, open_sheet: Callable[..., Sheet], shape: tuple[int, int, int], colours: int
):
    random = np.random.default_rng(sum(shape))
    palette = random.permutation(256 * 3).reshape(256, 3).astype(np.uint8)[:colours]
    frames = random.integers(0, colours, shape, dtype=np.uint8)
    delays = [40, 250, 1000, 30][: len(frames)]
    gif = encoded(open_sheet(conditional), frames, palette, delays)
    assert gif.info["loop"] == 0
    found = [
        (np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)
    ]
    assert [duration for _, duration in found] == delays
    for (image, _), frame in zip(found, frames, strict=True):
        assert np.array_equal(image, palette[frame])


def test_every_length_of_a_run_ends_as_a_decoder_expects(
    conditional: ServeProcess, open_sheet: Callable[..., Sheet]
):
    sheet = open_sheet(conditional)
    palette = np.arange(256 * 3).reshape(256, 3).astype(np.uint8)
    random = np.random.default_rng(0)
    for width in (254, 255, 256, 257, 300, 511, 512, 513, 700):  # around the places where codes grow by a bit
        frames = random.integers(0, 256, (1, 1, width), dtype=np.uint8)
        gif = encoded(sheet, frames, palette, [40])
        assert np.array_equal(np.asarray(gif.convert("RGB")), palette[frames[0]])
