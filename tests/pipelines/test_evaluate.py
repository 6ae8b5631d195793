"""The evaluate verb on a tiny trained recipe with a real SQLite tracking store."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.artifacts.measurements import metric_lines
from pipelines.artifacts.trained_model import load_trained_model
from pipelines.evaluate import evaluate, evaluate_trained
from pipelines.replay import replay
from pipelines.tracking import runs
from pipelines.tracking.publish import publish_evaluation
from seqgen.core.errors import BadInput, OperationalError
from tests.finished_run import finished_run, tiny_recipe


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory of its own, with its own SQLite file; one thread, as these models are tiny."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SEQGEN_ARTIFACTS", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def contents(directory):
    """The bytes of every file, by its path in `directory`."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_evaluate_leaves_numbers_and_pictures_and_tells_the_run(project):
    recipe = tiny_recipe(project, conditional=True)
    trained = finished_run(recipe)
    (trained.places.evaluate / "left-over").touch()
    evaluate(str(recipe), None)

    directory = trained.places.evaluate
    assert set(contents(directory)) == {
        *("metrics.json", "evaluation.json", "bounds.npy", "kl_per_step.csv"),
        *(
            "pictures/samples.png",
            "pictures/reconstructions.png",
            "pictures/canvas.png",
            "pictures/exemplars.png",
        ),
    }
    metrics = json.loads((directory / "metrics.json").read_text())["test"]["static"]
    comparable = json.loads((directory / "evaluation.json").read_text())
    bounds = np.load(directory / "bounds.npy", allow_pickle=False)
    assert bounds.dtype == np.float32
    assert bounds.shape == (16,) == (comparable["images"],) == (metrics["images"],)
    assert bounds.mean() == pytest.approx(metrics["bound"], rel=1e-6)
    sums = (bounds - bounds.mean()).reshape(4, 4).sum(1)  # 4 characters, 4 drawings of each
    assert np.sqrt(4 / 3 * (sums**2).sum()) / 16 == pytest.approx(metrics["bound_se"], rel=1e-4)
    assert (
        comparable["free_energy"]
        == metrics["bound"]
        == pytest.approx(metrics["kl"] - metrics["log_likelihood"])
    )
    assert comparable["manifest_digest"] == trained.manifest().digest
    assert {"iwae_2", "iwae_2_se", "bound_shuffled_context", "foreign_context_cost"} <= set(metrics)
    with (directory / "kl_per_step.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert sum(float(row["kl"]) for row in rows) == pytest.approx(metrics["kl"], abs=1e-5)
    for sheet in directory.glob("pictures/*.png"):
        with Image.open(sheet) as picture:
            assert picture.width > 300

    client = runs.connect()
    run_id = trained.run["run_id"]
    logged = client.get_run(run_id).data.metrics
    assert logged["test/static/bound"] == pytest.approx(metrics["bound"])
    assert logged["test/static/iwae_2_se"] == pytest.approx(metrics["iwae_2_se"])
    attached = {artifact.path for artifact in client.list_artifacts(run_id, "evaluate")}
    assert {"evaluate/pictures", "evaluate/metrics.json"} <= attached
    sheets = {artifact.path for artifact in client.list_artifacts(run_id, "evaluate/pictures")}
    assert "evaluate/pictures/samples.png" in sheets


def test_evaluating_twice_gives_the_same_bytes_and_settings_choose_the_images(project):
    recipe = tiny_recipe(project)
    trained = finished_run(recipe)
    evaluate_trained(trained)
    first = contents(trained.places.evaluate)
    evaluate_trained(trained)
    assert first == contents(trained.places.evaluate)
    assert "pictures/exemplars.png" not in first

    fewer = load_trained_model(str(recipe), ["evaluate.images=6", "evaluate.split=valid"])
    metrics = evaluate_trained(fewer)
    assert metrics["valid"]["dynamic"]["images"] == 6
    assert any(line.split()[0] == "valid/dynamic/bound" for line in metric_lines(metrics))


def test_what_cannot_be_evaluated_is_refused_before_anything_is_touched(project):
    recipe = tiny_recipe(project)
    with pytest.raises(BadInput, match="nothing was trained here; run"):
        load_trained_model(str(recipe))
    trained = finished_run(recipe)
    before = (trained.places.evaluate / "evaluation.json").read_bytes()

    with pytest.raises(BadInput, match="the model was trained with 1"):
        load_trained_model(str(recipe), ["train.epochs=3"])
    assert load_trained_model(str(recipe), ["train.epochs=1"]).recipe == trained.recipe
    with pytest.raises(BadInput, match=r"evaluate\.importance_images=1"):
        evaluate_trained(load_trained_model(str(recipe), ["evaluate.importance_images=1"]))

    run = json.loads((trained.places.train / "run.json").read_text())
    (trained.places.train / "run.json").write_text(json.dumps({**run, "manifest_digest": "f" * 64}))
    with pytest.raises(BadInput, match="not the shards the model was trained on"):
        evaluate_trained(load_trained_model(str(recipe)))
    assert (trained.places.evaluate / "evaluation.json").read_bytes() == before


def test_a_server_that_is_down_stops_the_verb_before_any_work(project, monkeypatch):
    recipe = tiny_recipe(project)
    trained = finished_run(recipe)
    (trained.places.evaluate / "metrics.json").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(OperationalError, match="does not serve us") as caught:
        evaluate(str(recipe), None)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (trained.places.evaluate / "metrics.json").exists()


def test_what_a_server_that_goes_down_later_lacks_is_sent_by_replay(project, monkeypatch, capfd):
    trained = finished_run(tiny_recipe(project))
    metrics = evaluate_trained(trained)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    publish_evaluation(trained, metrics)
    said = capfd.readouterr().err
    assert "seqgen replay" in said
    assert "secret" not in said
    assert (trained.places.evaluate / "metrics.json").is_file()

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    replay()
    client = runs.connect()
    bound = client.get_run(trained.run["run_id"]).data.metrics["test/dynamic/bound"]
    assert bound == metrics["test"]["dynamic"]["bound"]
    assert "evaluate/metrics.json" in [
        item.path for item in client.list_artifacts(trained.run["run_id"], "evaluate")
    ]

    trained.run["run_id"] = "0" * 32
    with pytest.raises(OperationalError, match="the files are kept in"):
        publish_evaluation(trained, {"test": {"dynamic": {"bound": 1.0}}})
