"""The memory estimate follows what it is an estimate of: T, batch, and recomputation."""

from __future__ import annotations

import subprocess
import sys

from pipelines.recipes import load_recipe
from seqgen.settings import ModelConfig
from seqgen.training.memory import bytes_needed, training_bytes

PAPER = ModelConfig()


def test_it_grows_with_steps_batch_and_pixels():
    needed = training_bytes(PAPER, 28, 100)
    assert training_bytes(PAPER.model_copy(update={"steps": 160}), 28, 100) > 1.8 * needed
    assert training_bytes(PAPER, 28, 200) > 1.8 * needed
    assert training_bytes(PAPER, 56, 100) > 3 * needed


def test_recomputation_needs_far_less_and_never_more():
    needed = training_bytes(PAPER, 28, 100)
    assert training_bytes(PAPER, 28, 100, recompute=10) < needed / 3
    assert training_bytes(PAPER, 28, 100, recompute=PAPER.steps) == needed
    assert training_bytes(PAPER, 28, 100, recompute=1000) == needed


def test_what_the_likelihood_keeps_is_counted_once():
    settings = {"steps": 10, "observation": "local-autoregressive", "pixel_hidden": 64, "pixel_layers": 1}
    local = training_bytes(ModelConfig(**settings), 28, 100)
    plain = training_bytes(ModelConfig(steps=10), 28, 100)
    units = 100 * 28 * 28 * 64 * 4
    assert units < local - plain < 8 * units


def test_every_posterior_sample_of_an_image_takes_its_memory():
    two, many = (load_recipe("iwae-mnist", [f"train.importance_samples={k}"]) for k in (2, 200))
    assert bytes_needed(many) > 5 * bytes_needed(two)


def test_what_is_built_after_an_estimate_has_memory():
    """In a process where the estimate is the first to import the kinds."""
    script = (
        "from seqgen.settings import ModelConfig\n"
        "from seqgen.training.memory import training_bytes\n"
        "config = ModelConfig(steps=2, hidden=8, read_size=4, write_size=4)\n"
        "training_bytes(config, 8, 2)\n"
        "import seqgen.api, torch\n"
        "from seqgen.models import build\n"
        "model = seqgen.api.Model(build(config, 8, 8).eval())\n"
        "assert model.trace(torch.zeros(2, 8, 8)).write.isfinite().all()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
