"""The sheets of what a model drew while it learned: every epoch that is shown."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from seqgen.drawing import learning


def test_the_strip_has_first_and_last_epoch_and_the_film_a_frame_each():
    epochs = list(range(2, 62, 2))
    drawn = np.random.default_rng(0).integers(0, 256, (len(epochs), 10, 12, 12), dtype=np.uint8)
    context = drawn[0] // 128 * 255
    plain, framed = learning.strip(epochs, drawn, None), learning.strip(epochs, drawn, context)
    assert framed.height > plain.height > 12 * 50
    with Image.open(io.BytesIO(learning.film(epochs, drawn, context))) as film:
        assert film.n_frames == len(epochs)
    with Image.open(io.BytesIO(learning.film(epochs[:1], drawn[:1], None))) as film:
        assert film.n_frames == 1
