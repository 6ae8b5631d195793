"""The parts of the train verb that need no Ray: storage of runs, history, progress, signals, resources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.artifacts.history import read_history, write_history
from pipelines.cli.command import run
from pipelines.cli.progress import Display, EpochLines, clock
from pipelines.cluster.connect import Resources
from pipelines.cluster.storage import RunStorage, storage_root
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput, OperationalError

OBJECTIVE = "valid/dynamic/free_energy"


def row(epoch: int, seconds: float = 60.0, **more: float) -> dict[str, float]:
    metrics = {"train/free_energy": 101.5, "train/kl": 20.25, "images_per_second": 1234.0, "seconds": seconds}
    return {"epoch": epoch, "step": 7 * epoch, **metrics, **more}


def walk_through_runs(root: str) -> None:
    """New, gone on with, complete, the next one."""
    first = RunStorage.next(root, "a")
    assert first.state() == {}
    first.keep({"run_id": "1"})
    assert RunStorage.next(root, "a") == first
    assert RunStorage.next(root, "a").state() == {"run_id": "1"}
    first.complete()
    second = RunStorage.next(root, "a")
    assert second.name == "a-2"
    assert second.state() == {}
    second.complete()
    assert RunStorage.next(root, "a").name == "a-3"
    assert RunStorage.next(root, "b").name == "b"


def test_a_run_is_gone_on_with_until_it_is_complete(tmp_path: Path):
    walk_through_runs(str(tmp_path))


def test_a_damaged_state_is_named(tmp_path: Path):
    storage = RunStorage(str(tmp_path), "a")
    storage.keep({"run_id": "1"})
    (path,) = (tmp_path / "a").iterdir()
    path.write_text("{")
    with pytest.raises(OperationalError, match=path.name):
        storage.state()


def test_storage_that_cannot_be_written_is_explained(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises((BadInput, OperationalError), match=str(tmp_path)):
        RunStorage(str(tmp_path / "file"), "a").keep({})


def test_where_runs_are_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQGEN_STORAGE", raising=False)
    assert storage_root() == str(tmp_path / ".seqgen/ray")
    for good in ("/shared/runs", "s3://bucket/prefix"):
        monkeypatch.setenv("SEQGEN_STORAGE", good)
        assert storage_root() == good
    for bad in ("relative/path", "gs://bucket", "http://host/x"):
        monkeypatch.setenv("SEQGEN_STORAGE", bad)
        with pytest.raises(BadInput, match=bad):
            storage_root()


@pytest.mark.slow
def test_runs_are_stored_in_s3_too(monkeypatch: pytest.MonkeyPatch):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    try:
        boto3.client("s3").create_bucket(Bucket="runs")
        walk_through_runs("s3://runs/prefix")
        with pytest.raises(BadInput, match="refused"):
            RunStorage("s3://absent/prefix", "a").keep({})
    finally:
        server.stop()


def test_history_comes_back_with_what_was_not_measured_left_out(tmp_path: Path):
    rows = [row(1), row(2, **{OBJECTIVE: 99.123456789012345})]
    write_history(tmp_path / "history.csv", rows)
    assert read_history(tmp_path / "history.csv") == rows
    assert (tmp_path / "history.csv").read_text().splitlines()[0].startswith("epoch,step,train/free_energy")
    write_history(tmp_path / "empty.csv", [])
    assert read_history(tmp_path / "empty.csv") == []


def test_a_line_of_progress_has_bound_rate_and_time_left():
    lines = EpochLines(30, OBJECTIVE)
    first = lines.line(row(1, seconds=120.0, **{OBJECTIVE: 98.765}))
    words = "epoch 1/30 held-out 98.77 nats train 101.50 KL 20.25 1234 images/s 58m00s left"
    assert " ".join(first.split()) == words
    assert "held-out         - nats" in lines.line(row(2))
    assert lines.line(row(3, seconds=60.0)).endswith("36m00s left")  # 27 epochs of (120 + 60 + 60) / 3 s


def test_times_are_short():
    assert [clock(seconds) for seconds in (0.4, 59.4, 60, 3599, 3660)] == [
        "0s",
        "59s",
        "1m00s",
        "59m59s",
        "1h01m",
    ]


def test_without_a_terminal_progress_is_plain_lines(capsys: pytest.CaptureFixture[str]):
    with Display(3, OBJECTIVE).shown() as display:
        display.say("starting")
        display.epoch(row(1))
    out = capsys.readouterr().out
    assert out.startswith("starting\nepoch 1/3  held-out")
    assert "\x1b" not in out


STOPPED = """
import contextlib, os, signal, time
from seqgen.core.errors import StoppedEarly
from pipelines.cli.signals import check_stop, raise_on_stop
from pipelines.cli.command import run

def work() -> None:
    raise_on_stop()
    with {first}:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    {then}

run(work, [])
"""


@pytest.mark.parametrize(
    ("first", "then", "code"),
    [
        ("contextlib.nullcontext()", "pass", 4),
        ("contextlib.suppress(StoppedEarly)", "check_stop()", 4),
        ("contextlib.suppress(StoppedEarly)", "os.kill(os.getpid(), signal.SIGTERM)", -15),
    ],
    ids=["raised", "swallowed", "twice"],
)
def test_a_signal_stops_with_code_4_and_a_second_one_at_once(first: str, then: str, code: int):
    script = STOPPED.format(first=first, then=then)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert done.returncode == code
    assert done.stderr == ("error: stopped by SIGTERM\n" if code == 4 else "")


def test_an_error_of_the_machine_is_one_line(capsys: pytest.CaptureFixture[str]):
    def work() -> None:
        raise OSError(28, "No space left on device", "http://me:secret@host")

    with pytest.raises(SystemExit) as caught:
        run(work, [])
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'http://***@host'\n"


def test_a_training_starts_no_actor_that_it_has_no_use_for():
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from pipelines.cluster.driver import trainer_class

    def callbacks(trainer: type[TorchTrainer]) -> set[str]:
        made = trainer(lambda: None, scaling_config=ScalingConfig(num_workers=1))
        return {type(callback).__name__ for callback in made._create_default_callbacks()}

    stock = callbacks(TorchTrainer)
    assert stock - callbacks(trainer_class(cleaner=True)) == {"DatasetsCallback"}
    assert stock - callbacks(trainer_class(cleaner=False)) == {
        "DatasetsCallback",
        "PlacementGroupCleanerCallback",
    }


def test_workers_are_compared_with_what_there_is():
    recipe = load_recipe("quickstart")
    room = Resources(cpus=8, gpus=0, memory=2**36, here=False)
    assert room.check(recipe, "auto") == "cpu"
    assert Resources(8, 2, 2**36, here=False).check(recipe, "auto") == "cuda"
    assert Resources(8, 2, 2**36, here=False).check(recipe, "cpu") == "cpu"
    assert Resources(8, 1, 2**36, here=False).check(recipe, "auto") == "cpu"
    for small, device, said in (
        (Resources(1, 0, 2**36, here=False), "auto", "the Ray cluster has 1 CPUs; use --workers 1 or less"),
        (Resources(8, 1, 2**36, here=True), "cuda", "this machine has 1 GPUs"),
        (Resources(8, 0, 2**20, here=True), "auto", "GiB"),
    ):
        with pytest.raises(BadInput, match=said):
            small.check(recipe, device)  # type: ignore[arg-type]
