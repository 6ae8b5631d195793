"""What a model draws while it learns: the same noise and contexts each time, every epoch that is shown."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from seqgen.drawing import learning
from tests.drawing.test_animation import held_out, model


def test_the_same_model_draws_the_same_and_another_one_of_the_same_noise_something_else():
    context = learning.shown(held_out(), conditional=True, seed=3)
    assert context is not None and context.shape == (learning.COLUMNS, 12, 12)
    assert set(np.unique(context)) == {0, 255}
    first, again = (learning.drawings(model(), context, 3) for _ in range(2))
    assert first.dtype == np.uint8 and first.shape == context.shape
    np.testing.assert_array_equal(first, again)
    changed = model()
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.1)
    assert (learning.drawings(changed, context, 3) != first).any()


def test_an_unconditional_model_is_shown_nothing():
    assert learning.shown(held_out(), conditional=False, seed=0) is None
    assert learning.shown(None, conditional=True, seed=0) is None


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
