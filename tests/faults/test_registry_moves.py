"""Case 43: the champion's alias moves to nothing altered, and a move that breaks off at any request is settled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import seqgen
from pipelines.registry import moves, turns, versions
from pipelines.tracking import runs
from seqgen.core.errors import OperationalError
from tests.finished_run import WORSE, finished_run, outside, stored, tiny_recipe, work_in
from tests.mlflow_server import MlflowServer
from tests.registries import REGISTER, Gate, another, champion, go, registered, said, version


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

    monkeypatch.setattr(turns, "LEASE", 30.0)  # the dead process's ticket is in the way until then
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


WRITES = (
    "set_registered_model_tag",
    "delete_registered_model_tag",
    "set_registered_model_alias",
    "set_model_version_tag",
)


def dies_at(number: int, work: Callable[[], object], patch: pytest.MonkeyPatch) -> bool:
    """Do `work` in a child that dies before its write of that number; whether it died before the end."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    try:
        seen = 0

        def deadly(write: Callable) -> Callable:
            def counted(*arguments: Any, **options: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen == number:
                    os._exit(9)
                return write(*arguments, **options)

            return counted

        for name in WRITES:
            patch.setattr(MlflowClient, name, deadly(getattr(MlflowClient, name)))
        work()
    finally:
        os._exit(0)


def found(model: str = "tiny") -> dict[str, Any]:
    """Who is champion, and what the tags of all versions say, but for the time."""
    client = runs.connect()
    told: dict[str, Any] = {"champion": champion(model)}
    for each in client.search_model_versions(f"name='{model}'"):
        tags = {key: value for key, value in each.tags.items() if not key.startswith("seqgen.")}
        history = tags.pop("promotion_history", "")
        told[str(each.version)] = tags | {"history": [line.split(" ", 1)[1] for line in history.splitlines()]}
    return told


def left(prefix: str) -> list[str]:
    """The tags of the model that begin so."""
    return [tag for tag in runs.connect().get_registered_model("tiny").tags if tag.startswith(prefix)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("promote", "tiny", "2", "--force"), ("rollback", "tiny")], ids=lambda words: words[0]
)
def test_43_killed_at_any_write_the_same_command_again_finishes_it(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As though it had not been: the same champion, the same tags, and no rollback further than was asked for."""
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")  # a child must not share a connection
    work_in(tmp_path, monkeypatch)
    recipe = tiny_recipe(tmp_path, register={"min_gain": 1e9})
    registered(finished_run(recipe, mean=WORSE))
    registered(finished_run(recipe))
    if command[0] == "rollback":
        assert said(capsys, "models", "promote", "tiny", "2", "--force")[0] == 0
    monkeypatch.setattr(
        moves, "inspect", lambda client, version: None
    )  # it writes nothing, and takes seconds
    store = (tmp_path / "mlflow.db").read_bytes()

    code, out = said(capsys, "models", *command)
    assert code == 0, out
    undisturbed = found()
    assert undisturbed["champion"] == ("2" if command[0] == "promote" else "1")
    champions = []
    while True:
        (tmp_path / "mlflow.db").write_bytes(store)
        if not dies_at(len(champions) + 1, lambda: said(capsys, "models", *command), monkeypatch):
            break
        champions.append(champion())
        for tag in left("seqgen.turn"):  # or we wait a minute for the ticket of the dead
            runs.connect().delete_registered_model_tag("tiny", tag)
        if found() != undisturbed or left("seqgen.move"):  # else it was done, and again is once more
            code, out = said(capsys, "models", *command)
            assert code == 0, out
        assert found() == undisturbed, f"killed at write {len(champions)}: {out}"
        assert not left("seqgen.move")
    assert len(champions) > 8
    assert champions == sorted(champions, reverse=command[0] == "rollback"), "it moved once"
    assert set(champions) == {"1", "2"}


@pytest.mark.slow
def test_43_killed_after_the_alias_moved_the_next_registering_writes_down_why(
    server: MlflowServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies in the request for the first tag after the alias."""
    name = "after-the-alias"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    recipe = tiny_recipe(here, register={"name": name})
    registered(finished_run(recipe, mean=WORSE))
    trained = finished_run(recipe)
    killed = threading.Event()
    first = lambda method, path, body: path.endswith("/model-versions/set-tag") and b"replaced" in body  # noqa: E731
    gate = Gate(server.uri, lambda: 503 * killed.wait(300), first)
    process = another(REGISTER, gate.uri, here)
    go(process)
    assert gate.reached.wait(500)
    process.kill()
    process.wait()
    killed.set()
    gate.close()
    assert champion(name) == "2"
    assert "promotion" not in version("2", name).tags

    monkeypatch.setattr(turns, "LEASE", 30.0)  # the dead process's ticket is in the way until then
    result = registered(trained)
    assert (result["version"], result["promoted"], champion(name)) == ("2", True, "2")
    tags = version("2", name).tags
    assert (tags["promotion"], tags["previous_champion"]) == ("promoted", "1")
    assert "better by" in tags["promotion_reason"]
    former = version("1", name).tags
    assert (former["promotion"], former["replaced_by"]) == ("replaced", "2")
    assert versions.by_number(runs.connect(), name, "3") is None
