"""Retraining: when there is something to do, what it says, and that it is alone and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from pipelines import retrain
from pipelines.registry import versions
from pipelines.tracking import runs
from seqgen.core.errors import BadInput, NumericalError, OperationalError
from seqgen.core.locks import held
from tests.finished_run import outside, tiny_recipe, work_in

# Stages whose training is instant: `dvc repro` runs them, and what they leave is what the real ones leave.
STAGE = """
import shutil, sys, time
from pathlib import Path
from pipelines import register
from pipelines.artifacts.places import places
from pipelines.recipes import load_recipe
from tests.finished_run import finished_run
from tests.sets import write_digits
verb, recipe = sys.argv[1:]
knobs = dict(line.split("=") for line in Path("knobs.txt").read_text().split())
where = places(load_recipe(recipe))
if verb == "shard":
    write_digits(where.shards, seed=int(Path("data.txt").read_text()))
elif "wait" in knobs:
    Path("waiting").touch()
    time.sleep(600)
elif "exit" in knobs:
    sys.exit(int(knobs["exit"]))
else:
    trained = finished_run(Path(recipe), mean=float(knobs["mean"]))
    print(register.summary(register.register_trained(trained)))
"""
OTHERS = {"other_images": "measure"}  # the tests' new data are new held-out images, too
STAGES = {
    "shard": {"deps": ["data.txt"], "outs": ["artifacts/tiny/shards"]},
    "report": {
        "deps": ["knobs.txt", "artifacts/tiny/shards", "${item.recipe}"],
        "outs": [f"artifacts/tiny/{verb}" for verb in ("train", "evaluate", "register")],
    },
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory in which signal handlers and the import path are put back afterwards."""
    work_in(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", outside()["PYTHONPATH"])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def project(here: Path) -> Path:
    """A DVC project with one recipe, tiny.yaml."""
    tiny_recipe(here, register=OTHERS)
    (here / "stage.py").write_text(STAGE)
    (here / "data.txt").write_text("0")
    (here / "knobs.txt").write_text("mean=0.5")
    (here / "params.yaml").write_text("recipes: [tiny.yaml]\n")
    stages = {
        verb: {
            "matrix": {"recipe": "${recipes}"},
            "cmd": f"python stage.py {verb} ${{item.recipe}}",
            **parts,
        }
        for verb, parts in STAGES.items()
    }
    (here / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "config", "core.analytics", "false"], check=True)
    return here


def said(capfd: pytest.CaptureFixture) -> str:
    capfd.readouterr()
    retrain.retrain()
    return capfd.readouterr().out


@pytest.mark.slow
def test_retrains_when_something_changed_and_only_then(project: Path, capfd: pytest.CaptureFixture) -> None:
    first = said(capfd)
    assert "tiny has no champion yet" in first
    assert "promoted tiny version 1" in first
    (project / "data.txt").write_text("1")
    (project / "knobs.txt").write_text("mean=0.6")
    worse = said(capfd)
    assert "since champion version 1 was made, data changed" in worse
    assert "kept champion v1 because " in worse
    again = said(capfd)
    assert "nothing to do: version 2 is made of all this already (not promoted" in again

    tiny_recipe(project, register=OTHERS, learning_rate=0.002)
    (project / "knobs.txt").write_text("mean=0.2")
    better = said(capfd)
    assert "settings changed" in better
    assert "promoted tiny version 3" in better
    assert "nothing to do: champion version 3" in said(capfd)

    (project / "data.txt").write_text("2")
    (project / "knobs.txt").write_text("exit=3")
    with pytest.raises(NumericalError, match=r"dvc repro report@tiny\.yaml ended with code 3"):
        retrain.retrain()
    client = runs.connect()
    assert str(client.get_model_version_by_alias("tiny", "champion").version) == "3"


PLUGIN = """
from seqgen.models.canvases import AdditiveCanvas
from seqgen.settings import register

@register("canvas", "retrained")
class RetrainedCanvas(AdditiveCanvas):
    pass
"""


@pytest.mark.slow
def test_a_plugin_that_changed_is_trained_for_although_dvc_does_not_watch_it(
    project: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.setenv("PYTHONPATH", f"{outside()['PYTHONPATH']}:{project}")
    (project / "retrained_canvas.py").write_text(PLUGIN)
    tree = yaml.safe_load((project / "tiny.yaml").read_text())
    tree["model"] |= {"canvas": "retrained", "plugins": ["retrained_canvas"]}
    (project / "tiny.yaml").write_text(yaml.safe_dump(tree))
    assert "promoted tiny version 1" in said(capfd)
    assert "nothing to do" in said(capfd)
    (project / "retrained_canvas.py").write_text(PLUGIN + "# changed\n")
    again = said(capfd)
    assert "code changed" in again
    assert "tiny version 2" in again
    assert "nothing to do" in said(capfd)


@pytest.mark.slow
def test_stopped_it_leaves_no_process_and_no_lock(project: Path) -> None:
    (project / "knobs.txt").write_text("wait=1")
    command = [sys.executable, "-m", "pipelines.retrain"]
    process = subprocess.Popen(command, env=outside(), stderr=subprocess.PIPE, text=True)
    while not (project / "waiting").exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    second = subprocess.run(command, env=outside(), capture_output=True, text=True)
    assert second.returncode == 0
    assert f"already running (holder pid {process.pid} on " in second.stdout

    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 4
    assert family
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with held(retrain.LOCK):
        pass
    (project / "knobs.txt").write_text("mean=0.5")
    retrain.retrain()  # DVC's own locks are free as well
    assert runs.connect().get_model_version("tiny", "1").tags["promotion"] == "promoted"


def test_without_recipes_there_is_nothing_to_retrain(here: Path) -> None:
    with pytest.raises(BadInput, match="no --recipe"):
        retrain.retrain()
    with pytest.raises(BadInput, match="nonesuch"):
        retrain.retrain("nonesuch")


def test_without_a_champion_every_stage_is_forced(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that DVC takes for up to date may be another tracking server's."""
    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        retrain, "run_stages", lambda name, last, *_, force=False, keep=(): asked.append((last, force))
    )
    retrain.retrain(str(tiny_recipe(here)))
    assert asked == [("report", True)]


def test_an_error_of_the_server_is_that_recipes(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    def fail(*_: object) -> None:
        raise MlflowException("http://me:canary@host: gone")

    names = [str(tiny_recipe(here, name=name)) for name in ("one", "two")]
    monkeypatch.setattr(retrain, "dvc_recipes", lambda: names)
    monkeypatch.setattr(versions, "by_alias", fail)
    with pytest.raises(OperationalError, match=r"one\.yaml: .*gone") as caught:
        retrain.retrain()
    said = capsys.readouterr().err
    assert "two.yaml" in said
    assert "canary" not in said + str(caught.value)


def test_server_that_is_down_ends_it_before_a_stage_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(OperationalError, match="127"):
        retrain.retrain(str(tiny_recipe(here)))
    assert not (here / "artifacts").exists()
