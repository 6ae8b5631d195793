"""`dvc exp run`: an experiment's model is in no registry until somebody puts it there; `dvc repro` and `retrain` do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines import retrain
from pipelines.registry import versions
from pipelines.tracking import runs
from tests.finished_run import outside, tiny_recipe, work_in

# What a training leaves; the stage of the registry is the project's own.
TRAIN = """
import shutil
from pathlib import Path
from tests.finished_run import finished_run
shutil.rmtree("artifacts/tiny/shards", ignore_errors=True)
finished_run(Path("tiny.yaml"))
"""
STAGES = {
    "shard": {"cmd": "mkdir -p artifacts/tiny/none"},
    "train": {
        "cmd": "python train.py",
        "deps": ["tiny.yaml", "train.py"],
        "outs": [f"artifacts/tiny/{each}" for each in ("shards", "train", "evaluate")],
    },
    "report": {
        "cmd": "python -m pipelines.register --recipe tiny.yaml",
        "deps": ["artifacts/tiny/train", "artifacts/tiny/evaluate"],
        "params": [{"tiny.yaml": ["register"]}],
        "outs": [{"artifacts/tiny/register": {"persist": True}}],
    },
}


@pytest.mark.slow
def test_an_experiment_registers_nothing_and_what_it_made_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_in(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", outside()["PYTHONPATH"])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = outside(PATH=path)

    def run(*command: str) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tiny_recipe(tmp_path, register={"z": 2.0})
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "params.yaml").write_text("recipes: [tiny.yaml]\n")
    stages = {
        name: {**stage, "matrix": {"recipe": "${recipes}"}, "desc": "for ${item.recipe}"}
        for name, stage in STAGES.items()
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (tmp_path / ".gitignore").write_text("/artifacts\n/mlflow.db\n/mlartifacts\n/.seqgen\n__pycache__\n")
    run("git", "init", "-q")
    run("git", "config", "user.name", "t")
    run("git", "config", "user.email", "t@example.org")
    run(sys.executable, "-m", "dvc", "init", "-q")
    run("git", "add", ".")
    run("git", "commit", "-qm", "one")

    said = run(sys.executable, "-m", "dvc", "exp", "run", "-n", "greener", "-S", "tiny.yaml:register.z=3")
    assert "not registered: `dvc exp run` (experiment greener) registers nothing" in said
    result = tmp_path / "artifacts/tiny/register/register.json"
    assert json.loads(result.read_text())["version"] is None
    assert runs.connect().search_registered_models() == []

    # DVC takes that for up to date; a retraining does not.
    retrain.retrain("tiny.yaml")
    assert json.loads(result.read_text())["version"] == "1"
    assert versions.by_alias(runs.connect(), "tiny", "champion")
