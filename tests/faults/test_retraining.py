"""Scheduled retraining: what a timer meets. DVC runs the stages; their training is instant, but for the last test's."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from data_prep.pictures import split_of
from pipelines import retrain
from pipelines.tracking import runs
from pipelines.tracking.source_files import PACKAGES, ROOT
from seqgen.core.errors import NumericalError
from seqgen.core.locks import held
from seqgen.data.manifest import read_manifest
from tests.finished_run import outside, tiny_recipe, work_in

pytestmark = pytest.mark.slow
PATIENCE = 900.0  # seconds in which what must come has come, on a machine that does much else

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
STAGES = {
    "shard": {"deps": ["data.txt"], "outs": ["artifacts/tiny/shards"]},
    "report": {
        "deps": ["knobs.txt", "artifacts/tiny/shards", "${item.recipe}"],
        "outs": [f"artifacts/tiny/{verb}" for verb in ("train", "evaluate", "register")],
    },
}

OTHERS = {"other_images": "measure"}  # the tests' new data are new held-out images, too


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


def test_it_retrains_when_something_changed_and_otherwise_there_is_nothing_to_do(
    project: Path, capfd: pytest.CaptureFixture
) -> None:
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


def test_code_that_changed_is_trained_for_although_the_data_did_not(
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


def test_of_two_at_once_the_second_names_the_first_which_stopped_leaves_nothing(project: Path) -> None:
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


def kill_family(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a process and all it started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait(PATIENCE)
    psutil.wait_procs(family, PATIENCE)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until `condition` holds, while `process` runs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.2)


def test_on_shared_storage_a_dead_holder_is_taken_over_after_its_lease(project: Path, tmp_path: Path) -> None:
    """Two machines, each with a checkout of its own, and one storage."""
    other, storage = (tmp_path.with_name(f"{tmp_path.name}-{name}") for name in ("other", "storage"))
    shutil.copytree(project, other)
    environment = outside(SEQGEN_STORAGE=str(storage))
    command = [sys.executable, "-m", "pipelines.retrain", "--lease", "20s"]
    (project / "knobs.txt").write_text("wait=1")
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for((project / "waiting").exists, first)

    def second() -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=other, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    taken = f"tiny: already running (holder pid {first.pid} on "
    assert taken in second().stdout
    kill_family(first)
    deadline = time.monotonic() + PATIENCE
    while taken in (done := second()).stdout:
        assert time.monotonic() < deadline
        time.sleep(1)
    assert "tiny: the retraining begun at" in done.stderr
    assert "ended without a word" in done.stderr
    assert "promoted tiny version 1" in done.stdout


def test_at_most_one_in_a_period(project: Path, capfd: pytest.CaptureFixture) -> None:
    def once(period: str) -> str:
        capfd.readouterr()
        retrain.retrain(period=period)
        return capfd.readouterr().out

    assert "promoted tiny version 1" in once("3650d")
    (project / "data.txt").write_text("1")
    (project / "knobs.txt").write_text("mean=0.6")
    assert "nothing to do: tiny was retrained at " in once("3650d")
    later = once("1s")
    assert "data changed" in later
    assert "kept champion v1 because " in later


def test_a_failure_is_told_and_promotes_nothing(
    project: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "alert.py").write_text("import sys; open('alerts.txt', 'a').write(sys.stdin.read())")
    monkeypatch.setenv("SEQGEN_ALERT_COMMAND", f"'{sys.executable}' alert.py")
    assert "promoted tiny version 1" in said(capfd)
    (project / "data.txt").write_text("1")
    (project / "knobs.txt").write_text("exit=3")
    with pytest.raises(NumericalError):
        retrain.retrain(alert_after=2)
    assert not (project / "alerts.txt").exists()
    with pytest.raises(NumericalError):
        retrain.retrain(alert_after=2)
    (told,) = map(json.loads, (project / "alerts.txt").read_text().splitlines())
    assert (told["recipe"], told["exit_code"], told["failures_in_a_row"]) == ("tiny", 3, 2)
    assert "ended with code 3" in told["message"]
    with pytest.raises(NumericalError):  # an alert that fails is no other failure
        retrain.retrain(on_failure="false")
    assert "warning: the alert command ended with code 1" in capfd.readouterr().err
    client = runs.connect()
    assert [version.version for version in client.search_model_versions("name='tiny'")] == [1]
    failures = project / ".seqgen/retrain/tiny/failures.json"
    assert json.loads(failures.read_text())["in_a_row"] == 3
    (project / "knobs.txt").write_text("mean=0.2")
    assert "promoted tiny version 2" in said(capfd)
    assert not failures.exists()


def test_dvc_keeps_the_shards_there_are(here: Path) -> None:
    """With the project's own dvc.yaml: what is new is appended to what DVC has in its cache."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, here / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "dvc.yaml", here / "dvc.yaml")
    (here / "params.yaml").write_text("recipes: [faces]\n")
    (here / "inbox").mkdir()
    paint(here / "inbox", range(60))
    faces_recipe(here, here / "pipelines/recipes")
    shards = here / "artifacts/faces/shards"

    def dvc(*arguments: str) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = outside(PYTHONPATH=str(here), PATH=path)
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    dvc("init", "--no-scm", "-q")
    dvc("config", "core.analytics", "false")
    dvc("repro", "shard@faces")
    first, before = read_manifest(shards), digests_of(shards)
    paint(here / "inbox", range(100, 130))
    (here / "inbox/0.png").unlink()
    dvc("repro", "-f", "-s", "fetch@faces")
    dvc("repro", "shard@faces")
    assert read_manifest(shards).parent == first.digest
    assert before.items() < digests_of(shards).items()
    assert before.keys() ^ digests_of(shards).keys() == {"train-000001.tar"}


def digests_of(shards: Path) -> dict[str, str]:
    """The sha256 of every tar."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards.glob("*.tar")}


def faces_recipe(here: Path, folder: Path) -> None:
    """Write faces.yaml, of the pictures in the inbox, into `folder`."""
    recipe = tiny_recipe(folder, name="faces", workers=1, initial="champion")
    tree = yaml.safe_load(recipe.read_text())
    tree |= {
        "data": {"source": "folder", "path": str(here / "inbox"), "size": 8, "binarise": "dynamic"},
        "register": {"name": "faces"},
    }
    recipe.write_text(yaml.safe_dump(tree))


def paint(folder: Path, names: range | list[str]) -> None:
    """Pictures of a few broad bars; each appears whole."""
    for name in names:
        random = np.random.default_rng(int(str(name)))
        pixels = np.repeat(random.integers(0, 2, 4, np.uint8) * 255, 4)[:, None].repeat(16, 1)
        pixels[:, : int(random.integers(1, 16))] = random.integers(0, 256)
        part = folder / f"{name}.part"
        Image.fromarray(pixels).save(part, "PNG")
        part.rename(folder / f"{name}.png")


@pytest.fixture
def timer(here: Path) -> Iterator[Callable[[], str]]:
    """A timer of seconds that retrains faces.yaml; what was said so far."""
    (here / "inbox").mkdir()
    paint(here / "inbox", range(60))
    faces_recipe(here, here)
    log = here / "timer.log"
    told = "sh -c 'cat >> alerts.txt'"
    command = f'"{sys.executable}" -m pipelines.retrain --recipe faces.yaml --period 1s --on-failure "{told}"'
    loop = f"while :; do {command}; echo exit $?; sleep 5; done"
    with log.open("w") as stream:
        process = subprocess.Popen(
            ["sh", "-c", loop], stdout=stream, stderr=stream, env=outside(), start_new_session=True
        )
    yield log.read_text
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGTERM)  # to the loop and to what it runs, which ends what that started
    process.wait()
    for member in psutil.wait_procs(family, 150)[1]:
        member.kill()


def test_a_timer_retrains_on_what_arrives(here: Path, timer: Callable[[], str]) -> None:
    """A folder, a real timer, real trainings: champion, nothing to do, a bad picture, new pictures, a decision."""

    def said(text: str, after: str = "") -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in timer().partition(after)[2] if after else text not in timer():
            assert time.monotonic() < deadline, timer()
            time.sleep(0.5)

    shards = here / "artifacts/faces/shards"
    said("promoted faces version 1")
    said("nothing to do: champion version 1", after="promoted faces version 1")
    first, before = read_manifest(shards), digests_of(shards)

    inbox = here / "inbox"
    (inbox / "bad.png").write_bytes(b"no picture")
    new = [number for number in range(100, 130) if split_of(f"{number}.png", 0) == "train"]
    paint(inbox, range(100, 130))
    said(f"{inbox}/bad.png: not a whole image")
    said("exit 2")
    told = json.loads((here / "alerts.txt").read_text().splitlines()[-1])
    assert (told["recipe"], told["exit_code"]) == ("faces", 2)
    assert "bad.png" in told["message"]
    assert (read_manifest(shards), digests_of(shards)) == (first, before)

    (inbox / "bad.png").unlink()
    said("since champion version 1 was made, data changed")
    said("starts from the weights of models:/faces/1")
    said("faces version 2")  # promoted, or a candidate
    said("nothing to do: ", after="faces version 2")
    second, after = read_manifest(shards), digests_of(shards)
    assert second.parent == first.digest
    assert before.items() < after.items()
    assert second.splits["train"].images == first.splits["train"].images + len(new)
    for split in ("valid", "test"):
        assert second.splits[split] == first.splits[split]
    client = runs.connect()
    assert len(client.search_model_versions("name='faces'")) == 2
    version = client.get_model_version("faces", "2")
    assert version.tags["seqgen.manifest_digest"] == second.digest
    assert version.tags["promotion"] in ("promoted", "not promoted")
    assert "champion version 1" in version.tags["promotion_reason"]
    held_out = float(client.get_model_version("faces", "1").tags["seqgen.bound"])
    assert f"{held_out:.3f}" in version.tags["promotion_reason"]  # on the same images, as it was
    assert [run.info.status for run in client.search_runs([runs.experiment_id(client)])] == ["FINISHED"] * 2
