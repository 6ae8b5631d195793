"""Registering: what a version holds, what is refused, and what it competes with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import seqgen
from pipelines import register, trace
from pipelines.artifacts.held_out import whole_split
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.recipes import load_recipe
from pipelines.registry import promotion
from pipelines.registry.competition import competition
from pipelines.registry.evaluation import Evaluation
from pipelines.registry.inspection import inspect
from pipelines.tracking import runs
from pipelines.tracking.lineage import request_digest
from seqgen.core.errors import BadInput, OperationalError
from seqgen.evaluation.bounds import free_energies
from seqgen.models import build, load_model, save_model
from tests.finished_run import (
    WORSE,
    finished_run,
    stored,
    tiny_recipe,
    work_in,
    write_bounds,
    write_evaluation,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work_in(tmp_path, monkeypatch)
    return tmp_path


def registered(trained: TrainedModel) -> dict[str, Any]:
    return register.register_trained(trained)


def tags(name: str, version: str) -> dict[str, str]:
    return runs.connect().get_model_version(name, version).tags


@pytest.mark.parametrize("conditional", [False, True])
def test_a_version_has_a_card_with_the_numbers_of_its_run(here: Path, conditional: bool) -> None:
    trained = finished_run(tiny_recipe(here, conditional=conditional))
    registered(trained)
    (card,) = (here / "mlartifacts/models").rglob("README.md")
    begin, about, text = card.read_text().split("---\n", 2)
    front = yaml.safe_load(about)
    assert begin == ""
    assert front["license"] == ("mit" if conditional else "cc-by-sa-3.0")
    assert ("one-shot-generation" in front["tags"]) is conditional
    ((model,), (result,)) = front["model-index"], front["model-index"][0]["results"]
    bound = Evaluation.read(stored(here)).mean
    assert (model["name"], result["metrics"][0]["value"]) == ("tiny", pytest.approx(bound, abs=1e-4))
    assert result["dataset"]["split"] == trained.recipe.register_.split
    metrics = json.loads((trained.places.evaluate / "metrics.json").read_text())
    (measured,) = metrics["test"].values()
    for said in (
        f"F, free energy | {measured['bound']:.2f}",
        f"F = {bound:.2f}",
        trained.weights,
        trained.run["run_id"],
    ):
        assert said in text
    assert ("context=drawing" in text) is conditional


def test_a_version_holds_no_pickle_and_its_lineage(here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    registered(trained)
    files = {path for path in (here / "mlartifacts" / "models").rglob("*") if path.is_file()}
    known = {".safetensors", ".json", ".npy", ".py", ".cpp", ".h", ".yaml", ".txt", ".md", ""}
    assert {path.suffix for path in files} <= known
    assert not [path for path in files if path.read_bytes()[:1] == b"\x80"]  # a pickle begins with PROTO
    names = {path.name for path in files}
    assert {"weights.safetensors", "bounds.npy", "evaluation.json", "input_example.json", "MLmodel"} <= names
    found = tags("tiny", "1")
    assert found["seqgen.manifest_digest"] == trained.manifest().digest
    assert found["seqgen.settings_digest"] == trained.recipe.digest()
    assert found["promotion"] == "promoted"
    assert found["seqgen.request_digest"] == request_digest(load_recipe("tiny.yaml"))
    (description,) = [path for path in files if path.name == "MLmodel"]
    assert "uri: artifacts/bounds.npy" in description.read_text()
    assert ROOT not in description.read_text()
    assert trained.places.root.as_posix() not in description.read_text().replace("artifact_path: file://", "")
    assert (stored(here) / "model/weights.safetensors").read_bytes() == (
        trained.model / "weights.safetensors"
    ).read_bytes()
    inspect(runs.connect(), runs.connect().get_model_version("tiny", "1"))


ROOT = str(Path(__file__).parents[2])


def test_it_competes_on_valid_and_reports_test(here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    result = registered(trained)
    held_out = whole_split(trained, "valid")
    bounds = free_energies(load_model(trained.model), held_out, trained.recipe.evaluate.seed).free_energy
    competed = Evaluation.read(stored(here))
    assert torch.equal(competed.bounds, bounds.float().double())
    assert (result["split"], competed.data["split"]) == ("valid", "valid")
    assert "on valid" in result["reason"]
    found = tags("tiny", "1")
    assert (found["seqgen.bound_split"], float(found["seqgen.bound"])) == ("valid", competed.mean)
    reported = json.loads((trained.places.evaluate / "evaluation.json").read_text())
    assert (found["seqgen.reported_split"], reported["split"]) == ("test", "test")
    assert float(found["seqgen.reported_bound"]) == reported["free_energy"] != competed.mean
    assert "bound" in json.loads((stored(here) / "metrics.json").read_text())["test"]["dynamic"]
    on_test = load_trained_model("tiny.yaml", ["register.split=test"])
    assert competition(on_test)[0].mean == pytest.approx(reported["free_energy"], rel=1e-6)


def test_drawings_are_evidence_by_character_and_of_new_alphabets_by_alphabet(here: Path) -> None:
    recipe = tiny_recipe(here, conditional=True)
    trained = finished_run(recipe)
    evaluation, held_out = competition(trained)
    assert evaluation.clusters is not None
    assert evaluation.clusters.kind == "character"  # one alphabet is not enough for an error
    assert evaluation.clusters.ids.equal(held_out.groups)
    registered(trained)
    stored_one = Evaluation.read(stored(here)).clusters
    assert stored_one is not None
    assert stored_one.ids.equal(evaluation.clusters.ids)


def test_registering_again_makes_no_second_version(here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    assert registered(trained)["version"] == registered(trained)["version"] == "1"
    assert len(runs.connect().search_model_versions("name='tiny'")) == 1


def test_the_request_of_a_version_is_the_trainings_not_the_files_of_now(here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    asked = request_digest(load_recipe("tiny.yaml"))
    tiny_recipe(here, learning_rate=0.5)
    registered(load_trained_model("tiny.yaml"))
    assert tags("tiny", "1")["seqgen.request_digest"] == asked != request_digest(load_recipe("tiny.yaml"))
    del trained.run["request_digest"]
    registered(trained)
    assert tags("tiny", "2")["seqgen.request_digest"] not in (asked, request_digest(load_recipe("tiny.yaml")))


def test_measuring_again_gives_the_bounds_of_the_evaluation(here: Path) -> None:
    trained = finished_run(tiny_recipe(here, conditional=True))
    registered(trained)
    client = runs.connect()
    champion = client.get_model_version_by_alias("tiny", "champion")
    evaluation, held_out = competition(trained)
    again = promotion.remeasure(client, trained, evaluation, held_out)(champion)
    assert torch.equal(again.bounds, evaluation.bounds)


def test_with_another_seed_the_champion_is_measured_again_on_the_same_images(here: Path) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    trained = finished_run(recipe)
    again = load_trained_model(str(recipe), ["evaluate.seed=3"])
    write_evaluation(again)
    result = registered(again)
    assert result["promoted"]
    assert "champion version 1 measured again" in result["reason"]
    assert result["difference"] > 10 * result["difference_se"] > 0
    assert trained.recipe.evaluate.seed != again.recipe.evaluate.seed


def test_another_task_does_not_compete(here: Path) -> None:
    registered(finished_run(tiny_recipe(here)))
    other = tiny_recipe(here, conditional=True, name="strokes", register={"other_images": "measure"})
    result = registered(finished_run(other))
    assert not result["promoted"]
    assert "use another register.name" in result["reason"]


def test_a_model_without_contexts_does_not_compete_on_the_same_shards(here: Path) -> None:
    recipe = tiny_recipe(here, conditional=True)
    registered(finished_run(recipe))
    tree = yaml.safe_load(recipe.read_text())
    tree["model"]["conditional"] = False
    recipe.write_text(yaml.safe_dump(tree))
    result = registered(finished_run(recipe))
    assert not result["promoted"]
    assert "use another register.name" in result["reason"]


def test_the_evaluation_of_other_weights_is_refused(here: Path) -> None:
    recipe = tiny_recipe(here)
    trained = finished_run(recipe)
    save_model(build(trained.recipe.model, 28, 28, 0.4), trained.model)
    with pytest.raises(BadInput, match="measured on other weights"):
        registered(load_trained_model(str(recipe)))


@pytest.mark.parametrize("setting", ["evaluate.images=12", "evaluate.seed=3", "evaluate.split=valid"])
def test_an_evaluation_with_other_settings_is_refused(here: Path, setting: str) -> None:
    recipe = tiny_recipe(here)
    finished_run(recipe)
    key = setting.partition(".")[2].partition("=")[0]
    with pytest.raises(BadInput, match=f"other settings .*{key} was"):
        registered(load_trained_model(str(recipe), [setting]))


def test_incomplete_evaluation_is_refused_before_anything_is_registered(here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    data = json.loads((trained.places.evaluate / "evaluation.json").read_text())
    write_bounds(trained.places.evaluate, data, np.zeros(3, np.float32))
    with pytest.raises(OperationalError, match="3 bounds"):
        registered(trained)
    (trained.places.evaluate / "bounds.npy").unlink()
    with pytest.raises(BadInput, match=r"bounds\.npy: missing"):
        registered(trained)
    write_evaluation(trained)
    shutil.rmtree(trained.places.shards)
    with pytest.raises(BadInput):
        registered(trained)
    assert runs.connect().search_registered_models() == []


def test_within_an_experiment_nothing_is_registered(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    trained = finished_run(tiny_recipe(here))
    monkeypatch.setenv("DVC_EXP_NAME", "named-by-hand")  # a person may, for DVCLive
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0" * 40)
    result = registered(trained)
    assert (result["version"], result["promoted"]) == (None, False)
    assert "experiment named-by-hand" in register.summary(result)
    assert runs.connect().search_registered_models() == []
    monkeypatch.delenv("DVC_EXP_BASELINE_REV")
    assert registered(trained)["version"] == "1"


def test_load_gives_the_trained_module(here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    registered(trained)
    ours, theirs = (seqgen.load(where).module for where in (trained.model, "models:/tiny@champion"))
    assert not theirs.training
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name])


def test_trace_ends_at_the_raw_files(here: Path, capsys: pytest.CaptureFixture) -> None:
    trained = finished_run(tiny_recipe(here))
    registered(trained)
    capsys.readouterr()
    trace.trace("models:/tiny@champion")
    said = capsys.readouterr().out
    manifest = trained.manifest()
    for digest in (trained.run["run_id"], trained.recipe.digest(), manifest.digest, "0" * 64):
        assert digest in said
    for index in manifest.splits.values():
        assert all(f"{shard.sha256}  {shard.name}" in said for shard in index.shards)
    manifest_file = stored(here) / "manifest.json"
    manifest_file.write_text(manifest_file.read_text().replace("0" * 64, "1" * 64))
    with pytest.raises(OperationalError):
        trace.trace("models:/tiny@champion")


@pytest.mark.slow
def test_trace_says_what_became_of_the_run(here: Path, capsys: pytest.CaptureFixture) -> None:
    trained = finished_run(tiny_recipe(here))
    registered(trained)
    run_id, client = trained.run["run_id"], runs.connect()

    def line() -> str:
        capsys.readouterr()
        trace.trace("models:/tiny@champion")
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("run "))

    assert line() == f"run {run_id} (FINISHED)"
    client.delete_run(run_id)
    assert line() == f"run {run_id} (FINISHED, in MLflow's trash)"
    uri = client.tracking_uri
    emptied = [sys.executable, "-m", "mlflow", "gc", f"--backend-store-uri={uri}", f"--tracking-uri={uri}"]
    subprocess.run(emptied, check=True)
    assert line() == f"run {run_id} (deleted from the tracking server)"


def test_decision_needs_no_pickle(tmp_path: Path) -> None:
    """bounds.npy of another making may hold a pickle: it is refused unread."""
    write_bounds(tmp_path, {"images": 1, "free_energy": 1.0}, np.zeros(1))
    np.save(tmp_path / "bounds.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(OperationalError, match="no complete evaluation"):
        Evaluation.read(tmp_path)
