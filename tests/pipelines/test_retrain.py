"""Retraining without its stages: what it asks for, what it refuses."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import retrain
from pipelines.registry import versions
from seqgen.core.errors import BadInput, OperationalError
from tests.finished_run import outside, tiny_recipe, work_in


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


def test_server_that_is_down_ends_it_before_a_stage_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(OperationalError, match="127"):
        retrain.retrain(str(tiny_recipe(here)))
    assert not (here / "artifacts").exists()
