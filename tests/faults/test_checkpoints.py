"""Checkpoints: a kill at any moment of a save, damaged ones, old and hostile ones, a full disk, what is kept."""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipelines.cluster.checkpoints import MOST_UNSAVED, Checkpoints
from pipelines.cluster.unsent import Unsent
from pipelines.storage import Store, open_store
from pipelines.storage.folder import Folder
from seqgen import __version__
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import file_sha256
from seqgen.training.checkpoint import Position, load_checkpoint, save_checkpoint
from tests.fault_proxy import Answer, FaultProxy
from tests.train_runs import EPOCHS, assert_complete, running, tracked, train, weights
from tests.training.test_checkpoint import FILES, trainee

GOLDEN = Path(__file__).parents[1] / "goldens/checkpoint-of-format-2"
SETTINGS = {"a": 1, "b": "x"}


def write(directory: Path, step: int, score: float = math.inf) -> None:
    """A real checkpoint of a small model."""
    directory.mkdir(exist_ok=True)
    (directory / "report.json").write_text(json.dumps({"step": step, "score": score}))
    save_checkpoint(directory, trainee(step, 1), Position(step, step), SETTINGS)


def put(checkpoints: Checkpoints, tmp_path: Path, step: int, score: float = math.inf) -> None:
    directory = tmp_path / f"local-{step}"
    write(directory, step, score)
    checkpoints.put(step, directory, said.append)


said: list[str] = []


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Those of a run in a folder; what is said of them is in `said`."""
    said.clear()
    return Checkpoints(open_store(str(tmp_path / "storage")), "run")


def dies_at(number: int, work: Callable[[], None]) -> bool:
    """Do `work` in a child process that dies at its file operation of that number; whether it died before the end."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        seen = 0

        def deadly(operation: Callable) -> Callable:
            def counted(*arguments: object, **options: object) -> object:
                nonlocal seen
                seen += 1
                if seen == number:
                    os._exit(9)
                return operation(*arguments, **options)

            return counted

        for owner, name in (
            (os, "fsync"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "rename"), (builtins, "open")
        ):  # fmt: skip
            setattr(owner, name, deadly(getattr(owner, name)))
        work()
    finally:
        os._exit(0)


@pytest.mark.parametrize(("again", "keep"), [(False, 2), (True, 2), (True, 1)])
def test_15_a_save_that_dies_at_any_moment_leaves_the_one_before_or_the_new_one(
    tmp_path: Path, again: bool, keep: int
):
    """Also where a checkpoint of the same step is put again, the only one there is."""
    local = tmp_path / "local"
    write(local, 2)
    deaths, found = 0, set()
    while True:
        storage = tmp_path / f"storage-{deaths}"
        fresh = Checkpoints(open_store(str(storage)), "run", keep)
        put(fresh, tmp_path, 1)
        if again:
            put(fresh, tmp_path, 2)
        if not dies_at(deaths + 1, lambda fresh=fresh: fresh.put(2, local, said.append)):
            break
        step = fresh.newest_whole(said.append)
        assert step in (1, 2)
        found.add(step)
        with fresh.fetched(step) as directory:
            assert load_checkpoint(directory, trainee(5), SETTINGS) == Position(step, step)
        fresh.put(2, local, said.append)  # and the next save is not disturbed by what is left
        assert fresh.newest_whole(said.append) == 2
        files = fresh.store.list("run/step-00000002")
        assert len({key.rpartition("/")[0] for key in files}) == 1, "nor is anything left of the former"
        deaths += 1
    assert deaths > 15
    assert found == ({2} if again else {1, 2})


def test_15_one_that_was_damaged_is_put_again_beside_it(checkpoints: Checkpoints, tmp_path: Path):
    """A kill before the damaged one is removed leaves two, of which the whole one counts, whichever it is."""
    put(checkpoints, tmp_path, 1, 5.0)
    (first,) = (tmp_path / "storage/run").iterdir()
    second = shutil.copytree(first, first.with_name("step-00000001.1"))
    for damaged in (second, first):
        flip(damaged / "optimiser.pt")
        assert checkpoints.steps() == [1]
        assert checkpoints.newest_whole(said.append) == 1
        with checkpoints.fetched(1) as directory:
            assert load_checkpoint(directory, trainee(5), SETTINGS) == Position(1, 1)
        flip(damaged / "optimiser.pt")
    assert checkpoints.address(1) == str(second)
    assert checkpoints.put(1, tmp_path / "local-1", said.append) == str(first.with_name("step-00000001.2"))
    assert [path.name for path in first.parent.iterdir()] == ["step-00000001.2"]
    assert said == [f"warning: checkpoint {second} is damaged and passed over: {said[0].split(': ', 2)[2]}"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", [*FILES, "index.json"])
@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: os.truncate(path, 7)])
def test_16_a_damaged_one_is_named_and_passed_over(
    checkpoints: Checkpoints, tmp_path: Path, name: str, damage: Callable[[Path], None]
):
    put(checkpoints, tmp_path, 1)
    put(checkpoints, tmp_path, 2)
    damage(tmp_path / f"storage/run/step-00000002/{name}")
    assert checkpoints.newest_whole(said.append) == 1
    if damage is not Path.unlink or name != "index.json":  # without an index it is none
        assert f"{tmp_path}/storage/run/step-00000002" in said[0]
        assert name in said[0]
    flip(tmp_path / f"storage/run/step-00000001/{name}")
    with pytest.raises(OperationalError, match=r"no checkpoint is whole; tried .*step-00000001\. Start anew"):
        checkpoints.newest_whole(said.append)


def test_16_where_the_newest_is_gone_altogether_the_one_before_is_taken(
    checkpoints: Checkpoints, tmp_path: Path
):
    put(checkpoints, tmp_path, 1)
    put(checkpoints, tmp_path, 2)
    shutil.rmtree(tmp_path / "storage/run/step-00000002")
    assert checkpoints.newest_whole(said.append) == 1
    with checkpoints.fetched(1) as directory:
        assert load_checkpoint(directory, trainee(5), SETTINGS) == Position(1, 1)
    assert not said


def forget_unsent(storage: Path) -> None:
    """Remove what a killed process had not put yet: it would be, and be the newest."""
    began = json.loads((storage / "seqgen-run.json").read_text())["began"]
    shutil.rmtree(Unsent(str(storage.parent), storage.name, began).place, ignore_errors=True)


@pytest.mark.slow
def test_16_and_17_a_run_goes_on_from_the_one_before(undisturbed: str, place: Path):
    with running(place, "--set", "train.keep_checkpoints=3") as run:
        run.wait_for("epoch  6/")
        run.wait_until(lambda: len(list(place.glob(".seqgen/ray/*/step-*/index.json"))) >= 2)
        run.kill()
    (storage,) = (place / ".seqgen/ray").iterdir()
    forget_unsent(storage)
    newest, *_ = sorted(storage.glob("step-*/index.json"), reverse=True)
    flip(newest.with_name("optimiser.pt"))
    # What Ray Train keeps for itself, and reads first where it finds it.
    (storage / "checkpoint_manager_snapshot.json").write_text("{")
    done = train(place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"checkpoint {newest.parent} is damaged and passed over" in done.stdout
    assert_complete(place)
    assert weights(place) == undisturbed


@pytest.mark.slow
def test_16_where_none_is_whole_they_are_listed(place: Path):
    with running(place, "--workers", "1") as run:
        run.wait_for("epoch  3/")
        run.wait_until(lambda: any(place.glob(".seqgen/ray/*/step-*/index.json")))
        run.kill()
    (storage,) = (place / ".seqgen/ray").iterdir()
    forget_unsent(storage)
    indices = sorted(storage.glob("step-*/index.json"))
    for index in indices:
        flip(index.with_name("model.safetensors"))
    done = train(place, "--workers", "1")
    assert done.returncode == 1
    assert all(str(index.parent) in done.stderr for index in indices)
    assert "Start anew with --force-new" in done.stderr
    looks = done.stdout.count(f"{indices[-1].parent} is damaged and passed over")
    assert looks == 1, "an error that a restart repeats is not restarted"


def test_18_one_of_an_older_version_loads(tmp_path: Path):
    into = trainee(1)
    assert load_checkpoint(GOLDEN, into, SETTINGS) == Position(2, 6)
    assert into.model.weight.equal(trainee(0).model.weight)


def test_18_one_of_a_newer_version_is_refused_and_says_whose_it_is(checkpoints: Checkpoints, tmp_path: Path):
    put(checkpoints, tmp_path, 1)
    directory = tmp_path / "local-1"
    index = json.loads((directory / "index.json").read_text())
    newer = {**index, "format": "seqgen-checkpoint-9", "version": "9.1"}
    (directory / "index.json").write_text(json.dumps(newer))
    checkpoints.put(2, directory, said.append)
    with pytest.raises(BadInput, match=rf"made by seqgen 9\.1; this is seqgen {re.escape(__version__)}"):
        checkpoints.newest_whole(said.append)  # and it is not passed over


class Payload:
    """What a hostile pickle runs when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def as_torch_writes_it(payload: Payload) -> bytes:
    stream = io.BytesIO()
    torch.save(payload, stream)
    return stream.getvalue()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("form", "naive"),
    [
        (lambda payload: pickle.dumps(payload, protocol=2), pickle.loads),
        (as_torch_writes_it, lambda content: torch.load(io.BytesIO(content), weights_only=False)),
    ],
    ids=["a plain one", "in torch's archive"],
)
def test_19_a_hostile_pickle_is_refused_and_does_not_run(
    tmp_path: Path, name: str, form: Callable[[Payload], bytes], naive: Callable[[bytes], object]
):
    """Signed by who planted it, too."""
    saved, target = tmp_path / "saved", tmp_path / "ran"
    write(saved, 1)
    hostile = form(Payload(target))
    naive(hostile)
    target.rmdir()  # it does go off where somebody unpickles
    (saved / name).write_bytes(hostile)
    index = json.loads((saved / "index.json").read_text())
    index["files"][name] = file_sha256(saved / name)
    (saved / "index.json").write_text(json.dumps(index))
    with pytest.raises(OperationalError, match=re.escape(name)):
        load_checkpoint(saved, trainee(1), SETTINGS)
    assert not target.exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own; `mount -o remount,size=...` changes it."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(where)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a disk of its own: {mounted.stderr.strip()}")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.slow
def test_20_a_full_disk_stops_no_training_but_its_end(undisturbed: str, place: Path, disk: Path):
    variables = {"SEQGEN_STORAGE": str(disk), "SEQGEN_UPLOAD_SECONDS": "10"}
    done = train(place, "--set", "train.checkpoint_every=10", **variables)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No space left on device" in done.stdout
    assert f"epoch {EPOCHS}/{EPOCHS}" in done.stdout, "training goes on"
    assert done.stdout.count(f"epoch  1/{EPOCHS}") == 1, "an error that a restart repeats is not restarted"
    assert "Go on with" in done.stderr
    assert not [path for path in disk.rglob("*") if path.name.endswith(".tmp")]

    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    done = train(place, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "saved now, as its process ended before it could" in done.stdout
    assert f"going on after epoch {EPOCHS}\n" in done.stdout, "nothing is trained again"
    assert_complete(place)
    assert weights(place) == undisturbed


@pytest.mark.slow
def test_20_a_disk_that_has_become_read_only_ends_it_once_too_much_is_unsaved(place: Path, disk: Path):
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    with running(place, "--workers=1", "--set=train.epochs=2000", SEQGEN_STORAGE=str(disk)) as run:
        run.wait_until(lambda: any(disk.glob("*/step-*/index.json")))
        while subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode:
            pass  # as long as a file is open for writing
        assert run.end() == 1, run.text
    told = re.search(r"the last (\d+) checkpoints could not be saved", run.text)
    assert told is not None, run.text
    assert int(told[1]) >= MOST_UNSAVED
    assert "Read-only file system" in run.text
    assert list(disk.glob("*/step-*/index.json")), "an older one is kept"
    assert [found["status"] for found in tracked(place)] == ["FAILED"]


@pytest.mark.slow
def test_20_a_full_temporary_directory_ends_it_once_too_much_is_unsaved(
    undisturbed: str, place: Path, disk: Path
):
    """Every checkpoint is written there first, wherever the storage is."""
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    # Ray's sockets lie elsewhere: their paths may not be long.
    variables = {"TMPDIR": str(disk), "RAY_TMPDIR": tempfile.gettempdir()}
    with running(place, **variables) as run:
        run.wait_for("epoch  2/")
        with (disk / "full").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(4096))
        assert run.end() == 1, run.text
    full = rf"{disk}\S*: No space left on device; make room there, or set TMPDIR to another place"
    assert re.search(rf"warning: no checkpoint can be saved; training goes on, .*: {full}", run.text), (
        run.text
    )
    told = re.search(rf"error: the last (\d+) checkpoints could not be saved: {full}", run.text)
    assert told is not None, run.text
    assert int(told[1]) >= MOST_UNSAVED
    assert "Go on with" in run.text
    assert not list(disk.rglob("seqgen-checkpoint-*")), "what was written of them is removed"

    (disk / "full").unlink()
    done = train(place, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" in done.stdout, "an older one is kept"
    assert_complete(place)
    assert weights(place) == undisturbed


def test_21_the_best_and_the_latest_are_kept(checkpoints: Checkpoints, tmp_path: Path):
    for step, score in enumerate((9.0, 7.0, 8.0, math.inf, 8.5, 9.5), start=1):
        put(checkpoints, tmp_path, step, score)
        steps = checkpoints.steps()
        assert steps[0] == step
        assert checkpoints.best(steps) == (1 if step == 1 else 2)
    assert steps == [6, 5, 2]
    put(checkpoints, tmp_path, 7, 7.0)  # as good: the later one is the best
    assert checkpoints.best(checkpoints.steps()) == 7
    assert checkpoints.steps() == [7, 6]
    assert not said


def test_21_the_one_that_is_put_stays_though_later_ones_are_there(checkpoints: Checkpoints, tmp_path: Path):
    """As after an outage, when what was the best catches up."""
    keeping_one = Checkpoints(checkpoints.store, "run", keep=1)
    for step in (3, 4, 2):
        put(keeping_one, tmp_path, step)
    assert keeping_one.steps() == [4, 2]
    put(keeping_one, tmp_path, 5)
    assert keeping_one.steps() == [5]
    assert not said


def test_21_what_cannot_be_deleted_is_a_warning(tmp_path: Path):
    class Sticky(Folder):
        def delete(self, keys: Iterator[str]) -> None:
            if any("step-00000001" in key for key in keys):
                raise OperationalError("not deleted")

    said.clear()
    sticky = Checkpoints(Sticky(str(tmp_path / "storage")), "run", keep=1)
    put(sticky, tmp_path, 2)
    shutil.copytree(tmp_path / "storage/run/step-00000002", tmp_path / "storage/run/step-00000001")
    put(sticky, tmp_path, 3)
    assert sticky.newest_whole(said.append) == 3
    assert said == ["warning: an old checkpoint stays: not deleted"]


@pytest.mark.slow
def test_21_a_server_that_refuses_to_delete_costs_a_warning(outage: tuple[FaultProxy, Store], tmp_path: Path):
    proxy, store = outage
    said.clear()
    checkpoints = Checkpoints(store, "run", keep=1)
    put(checkpoints, tmp_path, 1)
    refusal = b"<Error><Key>x</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    proxy.heal()
    deleting = lambda request: "?delete" in request.path  # noqa: E731
    proxy.inject(Answer(200, body=b"<DeleteResult>" + refusal + b"</DeleteResult>"), deleting, times=None)
    put(checkpoints, tmp_path, 2)
    assert checkpoints.steps() == [2, 1]
    assert checkpoints.newest_whole(said.append) == 2
    (warning,) = said
    assert warning.startswith("warning: an old checkpoint stays: ")
    assert "DeleteObjects was answered AccessDenied" in warning
    proxy.heal()
    put(checkpoints, tmp_path, 3)
    assert checkpoints.steps() == [3]
