"""Retraining without its stages: what it asks for, what it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import retrain
from pipelines.registry import versions
from pipelines.registry.competition import competition
from pipelines.retraining.record import Record, remembered_in
from pipelines.storage import open_store
from pipelines.tracking import runs
from seqgen.core.errors import BadInput, NumericalError, OperationalError, SeqgenError, StoppedEarly
from tests.finished_run import finished_run, outside, tiny_recipe, work_in
from tests.registries import champion, registered, version


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory in which signal handlers and the import path are put back afterwards."""
    work_in(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", outside()["PYTHONPATH"])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


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


def test_an_error_of_the_machine_is_that_recipes_and_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(tiny_recipe(here, name=name)) for name in ("one", "two")]
    monkeypatch.setattr(retrain, "dvc_recipes", lambda: names)
    monkeypatch.setattr(sys, "executable", str(here / "gone/python"))
    with pytest.raises(OperationalError, match=r"one\.yaml: .*No such file .*gone/python"):
        retrain.retrain(on_failure=f"tee -a {here}/told")
    told = [json.loads(line) for line in (here / "told").read_text().splitlines()]
    assert [(each["recipe"], each["exit_code"], each["failures_in_a_row"]) for each in told] == [
        ("one", 1, 1),
        ("two", 1, 1),
    ]


def test_a_promotion_that_broke_off_is_written_down_though_there_is_nothing_to_do(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def break_off(*_: object) -> None:
        raise RuntimeError

    recipe = tiny_recipe(here)
    trained = finished_run(recipe)
    with monkeypatch.context() as patch:
        patch.setattr(versions, "set_tags", break_off)
        with pytest.raises(RuntimeError):
            registered(trained)
    assert champion() == "1"
    assert "promotion" not in version("1").tags
    monkeypatch.setattr(retrain, "run_stages", lambda *_, **__: None)
    retrain.retrain(str(recipe))
    assert "nothing to do: champion version 1 is made of this" in capsys.readouterr().out
    assert version("1").tags["promotion"] == "promoted"


def test_a_version_that_was_never_judged_is_no_reason_to_do_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Its registering was killed: the stages run again, and it competes."""
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, data_seed=1))
    shutil.rmtree(here / "artifacts/tiny/shards")
    trained = finished_run(recipe)
    versions.add_version(runs.connect(), trained, competition(trained)[0])
    asked: list[str] = []
    monkeypatch.setattr(retrain, "run_stages", lambda name, last, *_, **__: asked.append(last))
    retrain.retrain(str(recipe))
    assert asked == ["shard", "report"]
    registered(trained)
    capsys.readouterr()
    retrain.retrain(str(recipe))
    assert asked == ["shard", "report", "shard"]
    assert "nothing to do: version 2 is made of all this already (not promoted: " in capsys.readouterr().out


def test_one_that_was_killed_is_told_once_though_there_is_nothing_to_do(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    recipe = tiny_recipe(here)
    registered(finished_run(recipe))
    Record(remembered_in("tiny")).begin()
    monkeypatch.setattr(retrain, "run_stages", lambda *_, **__: None)
    for _ in range(2):
        retrain.retrain(str(recipe), on_failure=f"tee -a {here}/told")
    assert capfd.readouterr().out.count("nothing to do: champion version 1 is made of this") == 2
    assert (here / "told").read_text().count("ended without a word") == 1


def test_failures_with_one_that_went_well_between_are_not_in_a_row_whatever_the_file_is_called(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails in a stage, then by a file that cannot be read: once each, with none in a row."""
    recipe = tiny_recipe(here, name="prod")
    good = "name: digits\n" + recipe.read_text()
    ends: list[SeqgenError] = []

    def run_stages(*_: object, **__: object) -> None:
        if ends:
            raise ends.pop()

    def once(text: str, *ended: SeqgenError) -> None:
        recipe.write_text(text)
        ends.extend(ended)
        retrain.retrain(str(recipe), alert_after=2, on_failure=f"tee -a {here}/told")

    monkeypatch.setattr(retrain, "run_stages", run_stages)
    for _ in range(2):
        with pytest.raises(NumericalError):
            once(good, NumericalError("not finite"))
        once(good)
        with pytest.raises(BadInput):
            once("name: [")
        once(good)
    assert not (here / "told").exists()
    with pytest.raises(NumericalError):
        once(good, NumericalError("not finite"))
    with pytest.raises(NumericalError):
        once(good, NumericalError("not finite"))
    told = json.loads((here / "told").read_text())
    assert (told["recipe"], told["failures_in_a_row"]) == ("digits", 2)


def test_what_ended_it_is_told_although_that_cannot_be_written_down(tmp_path: Path) -> None:
    where = tmp_path / "remembered"
    record = Record(open_store(str(where)))

    def is_stopped() -> None:
        with retrain._written_down(record):
            record.begin()
            shutil.rmtree(where)
            where.write_text("a file where a folder should be")
            raise StoppedEarly("stopped by SIGTERM")

    with pytest.raises(StoppedEarly, match="by SIGTERM"):
        is_stopped()


def test_server_that_is_down_ends_it_before_a_stage_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(OperationalError, match="127"):
        retrain.retrain(str(tiny_recipe(here)))
    assert not (here / "artifacts").exists()
