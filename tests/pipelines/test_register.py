"""Registering: what a version holds, who becomes champion and why, and that nothing stored with it is run."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import seqgen
from pipelines import register, rollback, trace
from pipelines.artifacts.held_out import evaluated_images
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.recipes import load_recipe
from pipelines.registry import promotion, versions
from pipelines.registry.evaluation import Evaluation
from pipelines.registry.promotion import decide
from pipelines.tracking import runs
from pipelines.tracking.lineage import request_digest
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.locks import Taken, held
from seqgen.models import build, save_model
from tests.finished_run import finished_run, outside, tiny_recipe, work_in, write_bounds, write_evaluation
from tests.mlflow_server import MlflowServer

WORSE = 0.5  # the ink an untrained model starts from; its data's mean is far better


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work_in(tmp_path, monkeypatch)
    return tmp_path


def registered(trained: TrainedModel) -> dict[str, Any]:
    return register.register_trained(trained)


def tags(name: str, version: str) -> dict[str, str]:
    return runs.connect().get_model_version(name, version).tags


def stored(here: Path, version: str = "1") -> Path:
    """Where the local artifact store has the artifacts of a version of `tiny`."""
    client = runs.connect()
    run = client.get_run(client.get_model_version("tiny", version).run_id or "")
    assert run.outputs is not None
    (output,) = run.outputs.model_outputs
    return here / "mlartifacts/models" / output.model_id / "artifacts/artifacts"


def fresh(code: str, uri: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new process in / that has only the installed packages, with pickle disallowed."""
    environment = outside(MLFLOW_TRACKING_URI=uri, MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false")
    del environment["PYTHONPATH"]
    return subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True
    )


PREDICT = """
import json, mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/tiny@champion")
import seqgen
given = np.ones((2, 28, 28), np.float32) if {conditional} else np.array([5], np.int64)
parameters = dict(samples=3, seed=1) if {conditional} else dict(seed=1)
one, two = model.predict(given, params=parameters), model.predict(given, params=parameters)
other = model.predict(given, params=dict(parameters, seed=2))
print(json.dumps(dict(shape=one.shape, dtype=str(one.dtype), low=float(one.min()), high=float(one.max()),
    same=bool((one == two).all()), other=bool((one == other).all()), code=seqgen.__file__)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_champion_predicts_in_a_fresh_process(here: Path, conditional: bool) -> None:
    trained = finished_run(tiny_recipe(here, conditional=conditional))
    result = registered(trained)
    assert result["promoted"]
    assert result["champion"] == result["version"] == "1"
    done = fresh(PREDICT.format(conditional=conditional), runs.tracking_uri())
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["shape"] == ([2, 3, 28, 28] if conditional else [5, 28, 28])
    assert said["dtype"] == "float32"
    assert 0 < said["low"] < said["high"] < 1
    assert said["same"]
    assert not said["other"]
    assert "mlartifacts" in said["code"]  # the code stored with the model, not the repository's


def test_a_version_holds_no_pickle_and_its_lineage(here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    registered(trained)
    files = {path for path in (here / "mlartifacts" / "models").rglob("*") if path.is_file()}
    known = {".safetensors", ".json", ".npy", ".py", ".cpp", ".h", ".yaml", ".txt", ""}
    assert {path.suffix for path in files} <= known
    assert not [path for path in files if path.read_bytes()[:1] == b"\x80"]  # a pickle begins with PROTO
    names = {path.name for path in files}
    assert {"weights.safetensors", "bounds.npy", "evaluation.json", "input_example.json", "MLmodel"} <= names
    found = tags("tiny", "1")
    assert found["seqgen.manifest_digest"] == trained.manifest().digest
    assert found["seqgen.settings_digest"] == trained.recipe.digest()
    assert float(found["seqgen.bound"]) == Evaluation.read(trained.places.evaluate).mean
    assert found["promotion"] == "promoted"
    assert found["seqgen.request_digest"] == request_digest(load_recipe("tiny.yaml"))
    (description,) = [path for path in files if path.name == "MLmodel"]
    assert "uri: artifacts/bounds.npy" in description.read_text()
    assert trained.places.root.as_posix() not in description.read_text()
    assert (stored(here) / "model/weights.safetensors").read_bytes() == (
        trained.model / "weights.safetensors"
    ).read_bytes()


def test_better_replaces_worse_and_is_rolled_back(here: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    better = registered(finished_run(recipe))
    assert better["promoted"]
    assert better["difference"] > 10 * better["difference_se"] > 0
    assert tags("tiny", "2")["previous_champion"] == "1"
    assert tags("tiny", "1")["replaced_by"] == "2"
    worse = registered(finished_run(recipe, mean=WORSE))
    assert not worse["promoted"]
    assert (worse["alias"], worse["champion"]) == ("candidate", "2")
    assert "worse by" in tags("tiny", "3")["promotion_reason"]
    written = json.loads((here / "artifacts/tiny/register/register.json").read_text())
    assert written == worse

    rollback.rollback("tiny")
    client = runs.connect()
    assert str(client.get_model_version_by_alias("tiny", "champion").version) == "1"
    with pytest.raises(BadInput, match="nothing to go back to"):
        rollback.rollback("tiny")
    with pytest.raises(BadInput, match="known: tiny"):
        rollback.rollback("tony")
    with pytest.raises(BadInput, match="write models:/"):
        rollback.rollback("../tiny")


def test_equal_is_not_better_and_a_gain_can_be_asked_for(here: Path) -> None:
    recipe = tiny_recipe(here)
    first = finished_run(recipe, mean=WORSE)
    registered(first)
    again = finished_run(recipe, mean=WORSE)
    result = registered(again)
    assert result["version"] == "2"
    assert not result["promoted"]
    assert result["difference"] == 0
    finished_run(recipe)
    reluctant = load_trained_model(str(recipe), ["register.min_gain=10000.0"])
    assert not registered(reluctant)["promoted"]
    assert registered(load_trained_model(str(recipe)))["promoted"]


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


def test_the_lock_of_a_server_lies_at_home_or_where_there_is_none_in_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = versions.lock_path("http://host", "tiny")
    assert at_home.parent == tmp_path / ".cache/seqgen"
    assert at_home != versions.lock_path("http://host", "other")
    monkeypatch.setenv("HOME", "/dev/null")
    assert versions.lock_path("http://host", "tiny").parent == Path(tempfile.gettempdir())
    assert versions.lock_path(f"sqlite:///{tmp_path}/mlflow.db", "tiny").parent == tmp_path / ".seqgen"


def test_two_processes_do_not_move_the_aliases_of_one_model_at_once(here: Path) -> None:
    client = runs.connect()
    path = versions.lock_path(client.tracking_uri, "tiny")
    with versions.lock(client, "tiny"), versions.lock(client, "other"), pytest.raises(Taken), held(path):
        pass
    with held(path):
        pass


def test_champion_is_measured_again_on_other_data(here: Path) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    shutil.rmtree(here / "artifacts/tiny/shards")
    result = registered(finished_run(recipe, data_seed=1))
    assert result["promoted"]
    assert "measured again on the present data" in result["reason"]
    assert result["difference"] > 10 * result["difference_se"] > 0


def test_measuring_again_gives_the_bounds_of_the_evaluation(here: Path) -> None:
    trained = finished_run(tiny_recipe(here, conditional=True))
    registered(trained)
    client = runs.connect()
    champion = client.get_model_version_by_alias("tiny", "champion")
    evaluation = Evaluation.read(trained.places.evaluate)
    again = promotion.measure_again(client, champion, trained, evaluation, evaluated_images(trained))
    assert torch.allclose(again.bounds.float(), evaluation.bounds.float())


def test_another_task_does_not_compete(here: Path) -> None:
    registered(finished_run(tiny_recipe(here)))
    other = tiny_recipe(here, conditional=True, name="strokes")
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
    trained = finished_run(tiny_recipe(here))
    save_model(build(trained.recipe.model, 28, 28, 0.4), trained.model)
    with pytest.raises(BadInput, match="measured on other weights"):
        registered(trained)


@pytest.mark.parametrize("setting", ["evaluate.images=12", "evaluate.seed=3", "evaluate.split=valid"])
def test_an_evaluation_with_other_settings_is_refused(here: Path, setting: str) -> None:
    recipe = tiny_recipe(here)
    finished_run(recipe)
    key = setting.partition(".")[2].partition("=")[0]
    with pytest.raises(BadInput, match=f"other settings .*{key} was"):
        registered(load_trained_model(str(recipe), [setting]))


def evaluation(bounds: list[float], **data: Any) -> Evaluation:
    return Evaluation({"images": len(bounds), "seed": 0, **data}, torch.tensor(bounds, dtype=torch.float64))


def test_paired_difference_against_the_closed_form() -> None:
    decision = decide(evaluation([1.0, 2.0, 3.0]), evaluation([2.0, 4.0, 6.0]), "v1", 0.0)
    assert decision.promoted
    assert decision.difference == pytest.approx(2.0)  # of 1, 2, 3
    assert decision.difference_se == pytest.approx(1 / math.sqrt(3))


def test_drawings_of_one_character_are_one_observation_of_the_difference() -> None:
    candidate, champion = evaluation([0.0] * 4), evaluation([1.0, 1.0, 3.0, 3.0])
    assert decide(candidate, champion, "v1", 0.0).difference_se == pytest.approx(1 / math.sqrt(3))
    groups = torch.tensor([5, 5, 8, 8])
    decision = decide(candidate, champion, "v1", 0.0, groups)
    assert (decision.difference, decision.difference_se) == pytest.approx((2.0, 1.0))  # of 1 and 3


def test_not_finite_never_wins_and_never_defends() -> None:
    assert not decide(evaluation([math.nan, 1.0]), None, "v1", 0.0).promoted
    assert not decide(evaluation([math.nan, 1.0]), evaluation([math.nan, 1.0]), "v1", 0.0).promoted
    assert decide(evaluation([9.0, 1.0]), evaluation([math.nan, 1.0]), "v1", 0.0).promoted


def test_other_data_is_named() -> None:
    decision = decide(evaluation([1.0, 2.0], seed=1), evaluation([3.0, 4.0]), "v1", 0.0)
    assert not decision.promoted
    assert "seed" in decision.reason


def test_nan_bound_is_a_candidate_only(here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    data = json.loads((trained.places.evaluate / "evaluation.json").read_text())
    write_bounds(trained.places.evaluate, data, np.full(data["images"], np.nan, np.float32))
    result = registered(trained)
    assert not result["promoted"]
    assert result["champion"] is None


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


def test_altered_or_deleted_version_does_not_become_champion(here: Path) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    registered(finished_run(recipe))
    client = runs.connect()
    weights = stored(here) / "model/weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(OperationalError, match="altered"):
        seqgen.load("models:/tiny/1")
    for damage in (lambda: None, weights.unlink):
        damage()
        with pytest.raises(OperationalError):
            rollback.rollback("tiny")
        assert str(client.get_model_version_by_alias("tiny", "champion").version) == "2"


def test_a_changed_weights_file_with_a_matching_description_is_noticed(here: Path) -> None:
    """Both files replaced together agree with each other, but not with the registry."""
    recipe = tiny_recipe(here)
    trained = finished_run(recipe)
    registered(trained)
    finished_run(recipe, mean=WORSE, seed=7)
    shutil.copytree(trained.model, stored(here) / "model", dirs_exist_ok=True)
    with pytest.raises(OperationalError, match="not the registry's"):
        seqgen.load("models:/tiny/1")


def test_load_refuses_what_is_not_ours(here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    registered(trained)
    (stored(here) / "model/extra.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(BadInput, match=r"extra\.pkl"):
        seqgen.load("models:/tiny@champion")
    with pytest.raises(BadInput, match="known: tiny"):
        seqgen.load("models:/tony@champion")
    with pytest.raises(BadInput, match="@champion = 1"):
        seqgen.load("models:/tiny@chompion")
    for uri in ("models:/tiny", "models:/../x@champion", "models:/m-0123"):
        with pytest.raises(BadInput, match="write models:/"):
            seqgen.load(uri)


def test_load_gives_the_trained_module(here: Path) -> None:
    trained = finished_run(tiny_recipe(here))
    registered(trained)
    ours, theirs = (seqgen.load(where).module for where in (trained.model, "models:/tiny@champion"))
    assert not theirs.training
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name])


def test_import_of_seqgen_is_light() -> None:
    code = "import sys, seqgen; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=outside()).returncode == 0


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


def test_a_champion_put_there_meanwhile_is_judged_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine's promotion between our judging and our moving is not overwritten."""
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    best = finished_run(recipe)
    client = runs.connect()
    rival = versions.add_version(client, best, Evaluation.read(best.places.evaluate))
    mediocre = finished_run(recipe, mean=0.3)
    verify = versions.verify
    calls: list[str] = []

    def while_we_verify(client: Any, version: Any) -> None:
        verify(client, version)
        if not calls:
            client.set_registered_model_alias("tiny", "champion", rival.version)
        calls.append(version.version)

    monkeypatch.setattr(versions, "verify", while_we_verify)
    result = registered(mediocre)
    assert not result["promoted"]
    assert result["champion"] == str(rival.version)
    assert "worse by" in result["reason"]


@pytest.mark.slow
def test_two_at_once_through_a_server(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes register at the same time: two versions, one champion, the better one."""
    server = MlflowServer(here)
    server.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        lines = {}
        for name, mean in (("good", None), ("bad", WORSE)):
            (here / name).mkdir()
            monkeypatch.chdir(here / name)
            recipe = tiny_recipe(here / name)
            finished_run(recipe, mean=mean)
            lines[name] = subprocess.Popen(
                [sys.executable, "-m", "pipelines.register", "--recipe", str(recipe)],
                cwd=here / name,
                env=outside(MLFLOW_TRACKING_URI=server.uri),
            )
        assert [process.wait(120) for process in lines.values()] == [0, 0]
        results = {
            name: json.loads((here / name / "artifacts/tiny/register/register.json").read_text())
            for name in lines
        }
        client = runs.connect()
        versions = client.search_model_versions("name='tiny'")
        assert len(versions) == 2
        assert all(version.tags["promotion_reason"] for version in versions)
        champion = client.get_model_version_by_alias("tiny", "champion")
        assert champion.version == results["good"]["version"]
        assert results["good"]["promoted"]
        shape = fresh(PREDICT.format(conditional=False), server.uri)
        assert shape.returncode == 0, shape.stderr
    finally:
        server.kill()


def test_decision_needs_no_pickle(tmp_path: Path) -> None:
    """bounds.npy of another making may hold a pickle: it is refused unread."""
    write_bounds(tmp_path, {"images": 1, "free_energy": 1.0}, np.zeros(1))
    np.save(tmp_path / "bounds.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(OperationalError, match="no complete evaluation"):
        Evaluation.read(tmp_path)
