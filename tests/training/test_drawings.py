"""What a model draws while it learns: the same noise and contexts each time."""

from __future__ import annotations

import numpy as np
import torch

from seqgen.training.drawings import COUNT, drawings, shown
from tests.drawing.test_animation import held_out, model


def test_the_same_model_draws_the_same_and_another_one_of_the_same_noise_something_else():
    context = shown(held_out(), conditional=True, seed=3)
    assert context is not None
    assert context.shape == (COUNT, 12, 12)
    assert set(np.unique(context)) == {0, 255}
    first, again = (drawings(model(), context, 3) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.shape == context.shape
    np.testing.assert_array_equal(first, again)
    changed = model()
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.1)
    assert (drawings(changed, context, 3) != first).any()


def test_an_unconditional_model_is_shown_nothing():
    assert shown(held_out(), conditional=False, seed=0) is None
    assert shown(None, conditional=True, seed=0) is None
