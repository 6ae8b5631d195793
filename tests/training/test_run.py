"""One training for any caller: here a plain process, without a cluster and a tracking server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqgen import training
from seqgen.core.errors import BadInput
from seqgen.core.machine import cores
from seqgen.models import load_model
from seqgen.settings import Recipe, build_recipe
from seqgen.training import EachEpoch, Progress, SaveFn
from tests.sets import write_digits
from tests.tiny_search import TREE

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from pathlib import Path

from seqgen import settings, training
from seqgen.models import save_model

recipe = settings.build_recipe(json.loads(sys.argv[1]), "my recipe")
show = training.EachEpoch(lambda progress, save: print(progress.metrics))
model = training.run(recipe, Path("shards"), threads=1, callbacks=[show])
save_model(model, Path("model"))
assert not {"ray", "mlflow", "pipelines"} & sys.modules.keys(), "the library alone"
"""


TREE_OF_TWO_EPOCHS = {"name": "tiny", **TREE, "train": {**TREE["train"], "epochs": 2}}


@pytest.fixture
def recipe() -> Recipe:
    return build_recipe(TREE_OF_TWO_EPOCHS, "tiny")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_digits(tmp_path / "shards")
    return tmp_path / "shards"


def test_a_script_trains_a_model_with_the_library_alone(shards: Path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(TREE_OF_TWO_EPOCHS)],
        cwd=shards.parent,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("valid/dynamic/free_energy") == 2
    assert load_model(shards.parent / "model").config.steps == 2


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


def test_the_seed_alone_decides_whatever_was_drawn_before(recipe: Recipe, shards: Path):
    first = weights(training.run(recipe, shards, threads=1))
    torch.rand(7)
    again = weights(training.run(recipe, shards, threads=1))
    assert all(one.equal(other) for one, other in zip(first, again, strict=True))


def test_a_process_uses_the_threads_it_is_given_else_all_cores(recipe: Recipe, shards: Path):
    training.run(recipe, shards, threads=1)
    assert torch.get_num_threads() == 1
    training.run(recipe, shards)
    assert torch.get_num_threads() == cores()


def test_it_trains_on_as_many_images_as_it_is_told(recipe: Recipe, shards: Path):
    steps: list[int] = []
    training.run(
        recipe,
        shards,
        threads=1,
        train_images=32,
        callbacks=[EachEpoch(lambda progress, save: steps.append(progress.step))],
    )
    assert steps == [2, 4]


def test_a_checkpoint_of_other_code_is_refused(recipe: Recipe, shards: Path, tmp_path: Path):
    def stop_at_once(progress: Progress, save: SaveFn) -> bool:
        (tmp_path / "checkpoint").mkdir()
        save(tmp_path / "checkpoint")
        return True

    training.run(
        recipe, shards, threads=1, callbacks=[EachEpoch(stop_at_once)], digests={"code digest": "then"}
    )
    with pytest.raises(BadInput, match="code digest was 'then', is 'now'"):
        training.run(
            recipe, shards, threads=1, resume=tmp_path / "checkpoint", digests={"code digest": "now"}
        )
