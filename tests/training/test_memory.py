"""The memory estimate follows what it is an estimate of: T, batch, and recomputation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from pipelines.recipes import load_recipe
from seqgen.models import build
from seqgen.settings import ModelConfig
from seqgen.settings.kinds import find
from seqgen.training.checkpoint import Position, Trainee, save_checkpoint
from seqgen.training.memory import bytes_needed, checkpoint_bytes, training_bytes

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


def test_a_checkpoint_takes_what_is_told(tmp_path: Path):
    recipe = load_recipe("quickstart")
    model = build(recipe.model, recipe.data.size, recipe.data.size)
    optimiser = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    objective = find("objective", recipe.train.objective).load()(recipe.train.of("objective"), model.sizes)
    trainee = Trainee(model, AveragedModel(model), optimiser, objective, objective.start())
    save_checkpoint(tmp_path, trainee, Position(1, 1), {})
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert checkpoint_bytes(recipe) == pytest.approx(size, rel=0.1)


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
