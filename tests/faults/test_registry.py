"""Cases 41 to 45: two retrains at once, what does not win, moves that break off, going back, and malicious versions."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

import seqgen
from pipelines.artifacts.trained_model import load_trained_model
from pipelines.registry import moves, promotion, turns, versions
from pipelines.registry.competition import competition
from pipelines.registry.inspection import FILES_TAG, files_digest
from pipelines.tracking import runs
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import file_sha256, write_json
from seqgen.data.manifest import read_manifest
from seqgen.serving.loading import DESCRIPTION_TAG, WEIGHTS_TAG
from tests.finished_run import WORSE, finished_run, outside, stored, tiny_recipe, work_in, write_evaluation
from tests.mlflow_server import MlflowServer
from tests.registries import REGISTER, Gate, another, champion, go, registered, said, version


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an empty registry in a SQLite file."""
    work_in(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real server; each test has a model name of its own there."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.mark.slow
def test_41_two_retrains_that_register_at_once(
    server: MlflowServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both versions exist, one is champion, the better one, and both say why."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    for round_, means in enumerate([(None, WORSE), (WORSE, None)]):
        name = f"at-once-{round_}"
        places = [here / f"{round_}-{each}" for each in range(2)]
        for place, mean in zip(places, means, strict=True):
            place.mkdir()
            monkeypatch.chdir(place)
            finished_run(tiny_recipe(place, register={"name": name}), mean=mean)
        processes = [another(REGISTER, server.uri, place) for place in places]
        for process in processes:
            go(process)
        assert [process.wait(500) for process in processes] == [0, 0]
        results = [
            json.loads((place / "artifacts/tiny/register/register.json").read_text()) for place in places
        ]
        assert {result["version"] for result in results} == {"1", "2"}
        better = results[means.index(None)]
        assert better["promoted"]
        client = runs.connect()
        found = client.search_model_versions(f"name='{name}'")
        assert len(found) == 2
        assert champion(name) == better["version"]
        for each in found:
            assert each.tags["promotion_reason"]
            expected = ["promoted"] if str(each.version) == champion(name) else ["replaced", "not promoted"]
            assert each.tags["promotion"] in expected
        assert not client.get_registered_model(name).tags  # no ticket is left


COUNT = """
from pipelines.registry import turns
from pipelines.tracking import runs
turns._EVERY = 0.05
client = runs.connect()
print("there", flush=True)
input()
for _ in range(8):
    with turns.turn(client, "{name}"):
        count = int(client.get_registered_model("{name}").tags.get("count", "0"))
        client.set_registered_model_tag("{name}", "count", str(count + 1))
"""
HOLD = """
from pipelines.registry import turns
from pipelines.tracking import runs
turns.LEASE = 10.0
client = runs.connect()
with turns.turn(client, "{name}") as ours:
    print("there", flush=True)
    input()
    ours.check()
    client.set_registered_model_tag("{name}", "moved", "by who came too late")
"""


@pytest.mark.slow
def test_41_only_one_process_at_a_time_has_the_turn(server: MlflowServer, tmp_path: Path) -> None:
    """Three processes read, add one and write, eight times each: no count is lost."""
    client = runs.connect(server.uri)
    client.create_registered_model("counted")
    processes = [another(COUNT.format(name="counted"), server.uri, tmp_path) for _ in range(3)]
    for process in processes:
        go(process)
    assert [process.wait(500) for process in processes] == [0, 0, 0]
    assert client.get_registered_model("counted").tags == {"count": "24"}


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_41_the_turn_of_a_holder_that_died_or_hangs_is_taken_over(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    """The next one waits for the lease; a holder that wakes up after it moves nothing."""
    name = f"held-{stop.name}"
    client = runs.connect(server.uri)
    client.create_registered_model(name)
    holder = another(HOLD.format(name=name), server.uri, tmp_path)
    holder.send_signal(stop)
    monkeypatch.setattr(turns, "LEASE", 10.0)
    before = time.monotonic()
    with turns.turn(client, name) as ours:
        ours.check()
    assert time.monotonic() - before > 10
    if stop == signal.SIGSTOP:
        holder.send_signal(signal.SIGCONT)
        go(holder)
    assert holder.wait(60) != 0
    assert "moved" not in client.get_registered_model(name).tags
    with turns.turn(client, name):  # at once: the dead ticket counts no more
        pass


def test_41_a_champion_put_there_meanwhile_is_judged_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another promotion between our judging and our moving is not overwritten."""
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    best = finished_run(recipe)
    client = runs.connect()
    rival = versions.add_version(client, best, competition(best)[0])
    mediocre = finished_run(recipe, mean=0.3)
    inspect = moves.inspect
    calls: list[str] = []

    def while_we_look(client: MlflowClient, version: Any) -> None:
        inspect(client, version)
        if not calls:
            client.set_registered_model_alias("tiny", "champion", rival.version)
        calls.append(version.version)

    monkeypatch.setattr(moves, "inspect", while_we_look)
    result = registered(mediocre)
    assert not result["promoted"]
    assert result["champion"] == str(rival.version)
    assert "worse by" in result["reason"]


def test_42_what_is_worse_or_equal_or_within_noise_is_kept_out(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe))
    for mean, why in ((None, "equal"), (WORSE, "worse by")):
        finished_run(recipe, mean=mean)
        code, out = said(capsys, "register", "--recipe", str(recipe))
        assert code == 0
        assert "kept champion v1 because held-out bound" in out
        assert why in out
        assert "20 paired images" in out
    assert champion() == "1"
    better = finished_run(recipe, seed=1)
    evaluation, _ = competition(better)
    noise = promotion.decide(
        evaluation, versions.fetch_evaluation(runs.connect(), version("1")), "v1", promotion.Rule()
    )
    assert noise.difference is not None
    assert noise.difference_se is not None
    assert noise.promoted == (noise.difference > 2.136 * noise.difference_se)  # 2 of Student's t, 19 degrees


def test_42_a_gain_can_be_asked_for(here: Path) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    finished_run(recipe)
    assert not registered(load_trained_model(str(recipe), ["register.min_gain=10000.0"]))["promoted"]
    assert not registered(load_trained_model(str(recipe), ["register.z=1000000000.0"]))["promoted"]
    better = registered(load_trained_model(str(recipe)))
    assert better["promoted"]
    assert better["difference"] > 10 * better["difference_se"] > 0


def test_42_a_bound_that_is_not_a_number_never_wins(here: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    trained = finished_run(recipe)
    tensors = load_file(trained.model / "weights.safetensors")
    save_file(
        {name: torch.full_like(each, torch.nan) for name, each in tensors.items()},
        trained.model / "weights.safetensors",
    )
    description = json.loads((trained.model / "model.json").read_text())
    write_json(trained.model / "model.json", {**description, "sha256": trained.weights})
    evaluation = json.loads((trained.places.evaluate / "evaluation.json").read_text())
    write_json(trained.places.evaluate / "evaluation.json", {**evaluation, "weights": trained.weights})
    code, out = said(capsys, "register", "--recipe", str(recipe))
    assert (code, champion()) == (0, "1")
    assert "kept champion v1 because its held-out bound on valid is nan; tiny version 2 is a candidate" in out
    assert version("2").tags["promotion"] == "not promoted"


def test_42_another_evaluation_manifest_is_refused_unless_asked(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    shutil.rmtree(here / "artifacts/tiny/shards")
    finished_run(recipe, data_seed=1)
    code, out = said(capsys, "register", "--recipe", str(recipe))
    assert (code, champion()) == (0, "1")
    assert (
        "kept champion v1 because champion version 1 cannot be compared: its evaluation manifest has other"
        in out
    )
    assert "--set register.other_images=measure" in out
    result = registered(load_trained_model(str(recipe), ["register.other_images=measure"]))
    assert result["promoted"]
    assert "measured again" in result["reason"]
    assert result["difference"] > 10 * result["difference_se"] > 0


def test_42_new_training_shards_beside_the_same_evaluation_compete(here: Path) -> None:
    """A manifest n+1 whose valid is that of manifest n: the bounds are paired, and nothing is measured again."""
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    before = (here / "artifacts/tiny/shards").rename(here / "before")
    finished_run(recipe, data_seed=1)
    grown = here / "artifacts/tiny/shards"
    manifest = json.loads((before / "manifest.json").read_text())
    other = json.loads((grown / "manifest.json").read_text())
    assert manifest != other
    joined = read_manifest(before).model_copy(
        update={"splits": {**read_manifest(before).splits, "train": read_manifest(grown).splits["train"]}}
    )
    for shard in joined.splits["valid"].shards + joined.splits["test"].shards:
        shutil.copyfile(before / shard.name, grown / shard.name)
    joined.write(grown)
    result = registered(finished_run(recipe))
    assert result["promoted"]
    assert "measured again" not in result["reason"]


def test_42_a_metric_that_is_missing(here: Path, capsys: pytest.CaptureFixture) -> None:
    """Of the candidate, of the version that is to be promoted by hand, and of the champion."""
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    trained = finished_run(recipe)
    (trained.places.evaluate / "metrics.json").unlink()
    code, out = said(capsys, "register", "--recipe", str(recipe))
    assert code == 2
    assert "metrics.json: missing; run `python -m pipelines.evaluate" in out
    write_evaluation(trained)
    registered(trained)
    assert champion() == "2"
    (stored(here) / "bounds.npy").unlink()
    code, out = said(capsys, "models", "promote", "tiny", "1")
    assert (code, champion()) == (0, "2")
    assert "kept champion v2 because version 1 has no evaluation" in out
    bounds = stored(here, "2") / "bounds.npy"
    np.save(bounds, np.load(bounds) + 1000)  # so that it would lose
    finished_run(recipe, mean=0.3)
    code, out = said(capsys, "register", "--recipe", str(recipe))
    assert (code, champion()) == (0, "2")
    assert "its bounds.npy was altered" in out
    bounds.unlink()
    finished_run(recipe, mean=0.3)
    code, out = said(capsys, "register", "--recipe", str(recipe))
    assert (code, champion()) == (0, "2")
    assert "kept champion v2 because champion version 2 cannot be compared" in out


def test_43_a_version_that_was_altered_or_deleted_is_refused_before_the_alias_moves(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    registered(finished_run(recipe))
    files = stored(here)
    weights = files / "model/weights.safetensors"

    def flip() -> None:
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(bytes(content))

    def code() -> None:  # what MLflow runs, and nothing else of seqgen's looks at
        flip()
        with (files.parent / "code/seqgen/models/model.py").open("a") as stream:
            stream.write("# another line\n")

    for damage, why in (
        (flip, "altered since it was registered"),
        (code, "its files were altered"),
        (weights.unlink, "altered"),
        (lambda: shutil.rmtree(files.parent), "cannot be fetched"),
    ):
        damage()
        for words in (("rollback", "tiny"), ("promote", "tiny", "1", "--force")):
            found, out = said(capsys, "models", *words)
            assert (found, champion()) == (1, "2"), out
            assert why in out
        assert version("2").tags["promotion"] == "promoted"
    assert seqgen.load("models:/tiny@champion")


@pytest.mark.slow
def test_43_a_move_that_breaks_off_half_way_leaves_the_old_champion(
    server: MlflowServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the alias is about to move, then refused with 500, then moved: the same version each time."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    recipe = tiny_recipe(here, register={"name": "half-way"})
    registered(finished_run(recipe, mean=WORSE))
    trained = finished_run(recipe)
    killed = threading.Event()
    gate = Gate(server.uri, lambda: 503 * killed.wait(300))
    process = another(REGISTER, gate.uri, here)
    go(process)
    assert gate.reached.wait(500)
    process.kill()
    process.wait()
    killed.set()
    gate.close()
    assert champion("half-way") == "1"
    assert seqgen.load("models:/half-way@champion")
    assert "promotion" not in version("2", "half-way").tags

    monkeypatch.setattr(turns, "LEASE", 10.0)  # the dead process's ticket is in the way until then
    broken = Gate(server.uri, lambda: 500)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", broken.uri)
    with pytest.raises(OperationalError, match="does not serve us"):
        registered(trained)
    broken.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert broken.reached.is_set()
    assert champion("half-way") == "1"

    result = registered(trained)
    assert (result["version"], result["promoted"], champion("half-way")) == ("2", True, "2")
    assert version("1", "half-way").tags["replaced_by"] == "2"


@pytest.mark.slow
def test_04_a_stopped_registering_leaves_the_old_champion_and_is_gone_on_with(
    server: MlflowServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM to the verb while the alias is about to move, and the server has not answered."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    recipe = tiny_recipe(here, register={"name": "stopped"})
    registered(finished_run(recipe, mean=WORSE))
    trained = finished_run(recipe)
    ended = threading.Event()
    gate = Gate(server.uri, lambda: 503 * ended.wait(300))
    verb = subprocess.Popen(
        [sys.executable, "-m", "pipelines.register", "--recipe", str(recipe)],
        cwd=here,
        env=outside(MLFLOW_TRACKING_URI=gate.uri),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert gate.reached.wait(500)
        verb.terminate()
        _, error = verb.communicate(timeout=120)
    finally:
        verb.kill()
        ended.set()
        gate.close()
    assert verb.returncode == 4, error
    assert error.splitlines()[-1] == "error: stopped by SIGTERM"
    assert champion("stopped") == "1"
    told = json.loads((here / "artifacts/tiny/register/register.json").read_text())
    assert told["version"] == "1", "of the one before"
    result = registered(trained)
    assert (result["version"], result["promoted"], champion("stopped")) == ("2", True, "2")


def test_44_rollback_and_what_is_not_there(here: Path, capsys: pytest.CaptureFixture) -> None:
    code, out = said(capsys, "models", "rollback", "tiny")
    assert code == 2
    assert "the registry is empty" in out
    assert said(capsys, "models", "list") == (0, "the registry is empty\n")

    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    registered(finished_run(recipe))
    assert champion() == "2"
    assert (version("2").tags["previous_champion"], version("1").tags["replaced_by"]) == ("1", "2")
    code, out = said(capsys, "models", "rollback", "tiny")
    assert (code, champion()) == (0, "1")
    assert out == "tiny: champion is version 1 again (was 2)\n"
    assert version("2").tags["promotion"] == "rolled back"

    for words, why in (
        (("rollback", "tiny"), "nothing to go back to"),
        (("rollback", "tony"), "known: tiny"),
        (("show", "tony"), "known: tiny"),
        (("rollback", "../tiny"), "write models:/"),
        (("promote", "tiny", "chompion"), "versions 1, 2; aliases @candidate = 2, @champion = 1"),
        (("promote", "tiny", "7"), "versions 1, 2"),
        (("promote", "tiny"), "name a version"),
        (("rollback",), "name a registered model"),
        (("rollback", "tiny", "--force"), "takes no --force"),
    ):
        code, out = said(capsys, "models", *words)
        assert (code, champion()) == (2, "1"), out
        assert why in out
    with pytest.raises(BadInput, match="@champion = 1"):
        seqgen.load("models:/tiny@chompion")

    code, out = said(capsys, "models", "list")
    assert code == 0
    assert out.splitlines()[1].split()[:3] == ["tiny", "1", "2"]
    code, out = said(capsys, "models", "show", "tiny")
    lines = out.splitlines()
    assert lines[0].startswith("version 2 @candidate: ")
    assert [line.split()[-1] for line in lines if line.startswith("  20")] == [
        *("promoted", "back"),
        *("promoted", "replaced", "promoted"),
    ]
    assert "  previous champion: version 1" in lines
    assert any(line.startswith("version 1 @champion: ") for line in lines)
    assert "on valid (reported: " in lines[0]
    code, out = said(capsys, "models", "promote", "tiny", "2")
    assert (code, champion()) == (0, "2")
    assert "better by" in out
    code, out = said(capsys, "models", "promote", "tiny", "1")
    assert (code, champion()) == (0, "2")
    assert "kept champion v2 because" in out
    code, out = said(capsys, "models", "promote", "tiny", "1", "--force")
    assert (code, champion()) == (0, "1")
    assert version("1").tags["promotion_reason"] == "by hand, after version 2"


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "boom")


def edit_description(files: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = files.parent / "MLmodel"
    tree = yaml.safe_load(path.read_text())
    change(tree["flavors"]["python_function"])
    path.write_text(yaml.safe_dump(tree))


def test_45_a_malicious_version_is_refused_and_runs_nothing(
    here: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write artifacts and tags plants it and signs it, too; nothing that he planted is run."""
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    registered(finished_run(recipe))
    client = runs.connect()
    clean, files = here / "clean", stored(here)
    shutil.copytree(files.parent, clean)
    boom = here / "boom"
    bomb = pickle.dumps(Bomb(boom))
    pickle.loads(bomb)
    assert boom.exists()  # it does go off where somebody unpickles
    boom.unlink()
    (here / "loader_elsewhere.py").write_text(f"open({str(boom)!r}, 'w').write('boom')\n")
    monkeypatch.syspath_prepend(str(here))

    def pickled_weights() -> None:
        (files / "model/weights.safetensors").write_bytes(bomb)
        description = json.loads((files / "model/model.json").read_text())
        digest = file_sha256(files / "model/weights.safetensors")
        write_json(files / "model/model.json", {**description, "sha256": digest})

    def pickled_model() -> None:
        (files.parent / "python_model.pkl").write_bytes(bomb)
        edit_description(
            files,
            lambda flavor: flavor.update(
                python_model="python_model.pkl", loader_module="mlflow.pyfunc.model"
            ),
        )

    def pickled_bounds() -> None:
        np.save(files / "bounds.npy", np.array([Bomb(boom)], dtype=object), allow_pickle=True)

    def artifact_above() -> None:
        edit_description(
            files,
            lambda flavor: flavor["artifacts"]["model"].update(path="../../../../clean/artifacts/model"),
        )

    plants: list[tuple[Callable[[], object], str, bool]] = [
        (pickled_weights, "", True),
        (lambda: (files / "model/extra.pkl").write_bytes(bomb), "extra.pkl", True),
        (lambda: (files / "model/extra.json").write_bytes(bomb), "extra.json", True),
        (pickled_model, "MLmodel", True),
        (
            lambda: edit_description(files, lambda f: f.update(loader_module="loader_elsewhere")),
            "loader_elsewhere",
            True,
        ),
        (lambda: edit_description(files, lambda f: f.update(code="../../code")), "outside the version", True),
        (lambda: edit_description(files, lambda f: f.update(model_code_path="other.py")), "other.py", True),
        (artifact_above, "outside the version", True),
        (lambda: (files.parent / "code/seqgen/hidden.pkl").write_bytes(bomb), "may hold a pickle", False),
        (lambda: (files.parent / "code/seqgen/hidden.txt").write_bytes(bomb), "may hold a pickle", False),
        (pickled_bounds, "", False),
    ]
    for plant, why, by_load in plants:
        shutil.rmtree(files.parent)
        shutil.copytree(clean, files.parent)
        plant()
        signed = {
            FILES_TAG: files_digest(files.parent),
            WEIGHTS_TAG: file_sha256(files / "model/weights.safetensors"),
            DESCRIPTION_TAG: file_sha256(files / "model/model.json"),
            versions.BOUNDS_TAG: file_sha256(files / "bounds.npy"),
        }
        versions.set_tags(client, version("1"), signed)
        if by_load:  # the others are nothing that it fetches
            with pytest.raises((BadInput, OperationalError), match=why):
                seqgen.load("models:/tiny/1")
        for words in (("rollback", "tiny"), ("promote", "tiny", "1", "--force")):
            if plant is pickled_bounds:
                words = ("promote", "tiny", "1")  # its bounds are what is read to decide
            code, out = said(capsys, "models", *words)
            assert code in ((0,) if plant is pickled_bounds else (1, 2)), out
            assert why in out
            assert champion() == "2"
        assert not boom.exists(), plant
    assert "loader_elsewhere" not in sys.modules

    source = client.create_model_version(
        "tiny", (here / "clean").as_uri(), tags={"a": "b"}
    )  # not by seqgen at all
    code, out = said(capsys, "models", "promote", "tiny", str(source.version), "--force")
    assert (code, champion()) == (2, "2")
    assert "not registered by seqgen" in out


def test_45_both_files_replaced_together_are_noticed(here: Path) -> None:
    """They agree with each other, but not with the registry."""
    recipe = tiny_recipe(here)
    trained = finished_run(recipe)
    registered(trained)
    finished_run(recipe, mean=WORSE, seed=7)
    shutil.copytree(trained.model, stored(here) / "model", dirs_exist_ok=True)
    with pytest.raises(OperationalError, match="not the registry's"):
        seqgen.load("models:/tiny/1")
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.parametrize(
    "uri", ["models:/tiny", "models:/../x@champion", "models:/m-0123", "models:/a/../b/1"]
)
def test_45_a_name_that_leads_elsewhere_is_refused(here: Path, uri: str) -> None:
    with pytest.raises(BadInput, match="write models:/"):
        seqgen.load(uri)
