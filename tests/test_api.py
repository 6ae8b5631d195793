"""A model in Python: what its calls give, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import seqgen
from seqgen.api import Model
from seqgen.core.errors import BadInput
from seqgen.data.batches import generator_at
from seqgen.models import build, save_model
from seqgen.objectives import importance_weighted
from seqgen.settings import ModelConfig

SMALL = {"steps": 2, "latents": 3, "hidden": 8, "read_size": 4, "write_size": 4, "posterior_hidden": 8}


def model(**settings: object) -> Model:
    torch.manual_seed(0)
    return Model(build(ModelConfig(**SMALL, **settings), 8, 6, 0.3).eval())


def images(count: int) -> np.ndarray:
    return (np.random.default_rng(0).random((count, 8, 6)) < 0.3).astype(np.uint8)


def test_a_directory_is_loaded(tmp_path: Path):
    ours = model()
    save_model(ours.module, tmp_path)
    loaded = seqgen.load(tmp_path)
    assert torch.equal(loaded.sample(3, seed=5), ours.sample(3, seed=5))
    assert not torch.equal(loaded.sample(3, seed=5), loaded.sample(3, seed=6))
    assert loaded.sample(3).shape == (3, 8, 6)
    assert "step=sequential" in repr(loaded)


def test_nll_is_the_importance_weighted_bound_whatever_the_form_of_the_images():
    ours, x = model(), images(5)
    tensor = torch.from_numpy(x).float().unsqueeze(1)
    generator = generator_at(torch.device("cpu"), 0, "importance")
    expected = -importance_weighted(ours.module, tensor, None, 20, generator).double()
    for given in (x, x.astype(bool), tensor, x.tolist()):
        torch.testing.assert_close(ours.nll(given, 20), expected)
    assert ours.nll(x[0], 20).shape == (1,)
    assert ours.nll(x, 3000).mean() < ours.nll(x, 1).mean()  # more than go at once


def test_contexts_of_one_image_of_each_and_several():
    ours, x = model(conditional=True), images(4)
    assert torch.equal(ours.nll(x, 5, context=x[0]), ours.nll(x, 5, context=np.stack([x[0]] * 4)))
    assert ours.nll(x, 5, context=np.stack([x, x], 1)).shape == (4,)
    one, several = ours.sample(3, context=x[0]), ours.sample(3, context=x)
    assert one.shape == several.shape == (3, 8, 6)
    assert not torch.equal(one, several)
    assert ours.trace(x, context=x).canvas.shape == (2, 4, 1, 8, 6)
    assert ours.trace(context=x[0]).kl is None


def test_imputing_keeps_what_was_seen_and_looks_at_nothing_else():
    ours, x = model(), images(3)
    missing = np.zeros((8, 6), bool)
    missing[:4] = True
    sample, mean = ours.impute(x, missing, steps=6)
    torch.testing.assert_close(sample[:, 4:], torch.from_numpy(x[:, 4:]).float())
    assert set(sample.unique().tolist()) <= {0.0, 1.0}
    assert ((mean[:, :4] > 0) & (mean[:, :4] < 1)).all()
    other = x.astype(np.float32)
    other[:, :4] = np.nan
    for given in (other, other[:, None]):
        assert torch.equal(ours.impute(given, missing, steps=6)[0], sample)


def test_pixels_that_depend_on_each_other_are_drawn_and_measured_but_not_imputed():
    ours, x = model(observation="local-autoregressive"), images(3)
    assert ours.sample(2).shape == (2, 8, 6)
    assert ours.nll(x, 3).isfinite().all()
    with pytest.raises(BadInput, match="not independent given z"):
        ours.impute(x, np.ones((8, 6)), steps=2)


def test_compression_gives_every_bit_back():
    ours, x = model(), images(7)
    content = ours.compress(x)
    assert isinstance(content, bytes)
    assert np.array_equal(ours.decompress(content).numpy(), x)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda m, x: m.nll(x[:, :5]), r"x: shape \[4, 5, 6\]; the model takes \[n, 8, 6\]"),
        (lambda m, x: m.nll(np.where(x, np.nan, 0.0)), "x: nan among its values"),
        (lambda m, x: m.nll(3.0 * x), "x: 3 among its values"),
        (lambda m, x: m.nll(0.5 * x), "x: grey values"),
        (lambda m, x: m.nll("images"), "x: no array of numbers"),
        (lambda m, x: m.nll(x[:0]), r"x: shape \[0, 8, 6\]"),
        (lambda m, x: m.nll(x, 0), "num_samples=0"),
        (lambda m, x: m.nll(x, context=x), "context: this model is unconditional"),
        (lambda m, x: m.sample(0), "count=0"),
        (lambda m, x: m.impute(x, np.ones((4, 4))), r"missing: shape \[4, 4\]"),
        (lambda m, x: m.impute(x, np.ones((8, 6)), steps=0), "steps=0"),
        (lambda m, x: m.impute(x, np.ones((2, 8, 6))), "missing: 2 masks for 4 images"),
    ],
)
def test_what_does_not_fit_is_refused(call, expected):
    with pytest.raises(BadInput, match=expected):
        call(model(), images(4))


def test_a_conditional_model_asks_for_its_context():
    ours, x = model(conditional=True), images(4)
    with pytest.raises(BadInput, match="give one"):
        ours.sample(2)
    with pytest.raises(BadInput, match=r"context: shape \[2, 1, 8, 6\] for 4 images"):
        ours.nll(x, context=x[:2])
