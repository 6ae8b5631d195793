"""What docs/own-images.md shows happens: its Python draws and shards, its commands print the lines below them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.recipes import load_recipe
from seqgen.data.manifest import read_manifest
from seqgen.models import load_model
from seqgen.settings import read_recipe
from tests.finished_run import outside

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/own-images.md").read_text()


def run(place: Path, *command: str) -> str:
    """What a fresh interpreter says in `place`, where nothing of this project lies."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=place,
        env=outside(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.slow
def test_the_page_goes_on_to_a_model_that_is_measured(tmp_path: Path):
    (tmp_path / "draw.py").write_text(blocks("python")[0])
    run(tmp_path, "draw.py")
    commands = re.findall(r"^(?:\$ |    )seqgen (.*)$", PAGE, re.M)
    verbs = [command.split()[0] for command in commands]
    assert verbs == ["fetch", "shard", "data", "train", "evaluate", "serve"]
    for command in commands[:-1]:  # `serve` goes on until it is stopped
        few = ["--set", "train.epochs=2"]
        run(tmp_path, "-m", "pipelines.cli.main", *shlex.split(command), *few)
    place = tmp_path / "artifacts/own-characters"
    measured = json.loads((place / "evaluate/metrics.json").read_text())["test"]["static"]
    assert measured["images"] == 120
    assert 0 < measured["bound"] < measured["bound_shuffled_context"]  # what it was shown is of use
    _, model, _, shards = shlex.split(commands[-1])
    assert load_model(tmp_path / model).sizes.height == read_manifest(tmp_path / shards).height == 28


def test_the_page_draws_shards_and_shows(tmp_path: Path):
    drawing, arrays = blocks("python")
    for name, script in (("draw.py", drawing), ("arrays.py", arrays)):  # as files, as a user has them
        (tmp_path / name).write_text(script)
    run(tmp_path, "draw.py")
    (session,) = blocks("console")
    for part in session.split("$ ")[1:]:
        command, *shown = part.splitlines()
        said = run(tmp_path, "-m", "pipelines.cli.main", *shlex.split(command)[1:])
        assert all(line in said for line in shown), (command, said)
    place = tmp_path / "artifacts/own-characters"
    assert read_manifest(place / "shards").data == load_recipe("own-characters").data
    assert "Taken as: light paper (detected)" in (place / "data-card.md").read_text()

    (tmp_path / "mine.yaml").write_text(run(tmp_path, "-m", "pipelines.show", "own-characters"))
    assert "'train': 320" in run(tmp_path, "arrays.py")
    made = read_manifest(tmp_path / "artifacts/arrays/shards")
    assert made.data == read_recipe(tmp_path / "mine.yaml", ["data.path=my-arrays"]).data
