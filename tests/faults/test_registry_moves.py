"""Case 43: a move of the champion's alias that a kill breaks off at any of its requests is settled by the next one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.registry import moves, turns, versions
from pipelines.tracking import runs
from tests.finished_run import WORSE, finished_run, tiny_recipe, work_in
from tests.mlflow_server import MlflowServer
from tests.registries import REGISTER, Gate, another, champion, go, registered, said, version

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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server; the process dies in the request for the first tag after the alias."""
    work_in(tmp_path, monkeypatch)
    server = MlflowServer(tmp_path)
    server.start()
    killed = threading.Event()
    first = lambda method, path, body: path.endswith("/model-versions/set-tag") and b"replaced" in body  # noqa: E731
    gate = Gate(server.uri, lambda: 503 * killed.wait(300), first)
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        recipe = tiny_recipe(tmp_path)
        registered(finished_run(recipe, mean=WORSE))
        trained = finished_run(recipe)
        process = another(REGISTER, gate.uri, tmp_path)
        go(process)
        assert gate.reached.wait(500)
        process.kill()
        process.wait()
        assert champion() == "2"
        assert "promotion" not in version("2").tags

        monkeypatch.setattr(turns, "LEASE", 10.0)  # the dead process's ticket is in the way until then
        result = registered(trained)
        assert (result["version"], result["promoted"], champion()) == ("2", True, "2")
        assert version("2").tags["promotion"] == "promoted"
        assert "better by" in version("2").tags["promotion_reason"]
        assert version("2").tags["previous_champion"] == "1"
        assert (version("1").tags["promotion"], version("1").tags["replaced_by"]) == ("replaced", "2")
        assert versions.by_number(runs.connect(), "tiny", "3") is None
    finally:
        killed.set()
        gate.close()
        server.kill()
