"""The champion is followed: another one takes over between two requests, one that does not load is refused."""

from __future__ import annotations

import logging
import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import seqgen
from pipelines import register
from seqgen.core.errors import BadInput
from seqgen.data.manifest import read_manifest
from seqgen.serving.http import tasks
from seqgen.serving.http.app import make_app
from seqgen.serving.http.follower import Follower
from seqgen.serving.http.held_out import HeldOutDrawings
from seqgen.serving.http.limits import Limits
from seqgen.serving.http.served import Served
from seqgen.serving.http.service import Service
from tests.asgi import ask
from tests.finished_run import finished_run, stored, tiny_recipe, work_in
from tests.served_models import saved

CHAMPION = "models:/tiny@champion"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose registry has two versions, of which the first is champion."""
    work_in(tmp_path, monkeypatch)
    recipe = tiny_recipe(tmp_path)
    for seed in (0, 1):
        register.register_trained(finished_run(recipe, seed=seed))
    crown("1")
    return tmp_path


def crown(version: str) -> None:
    MlflowClient().set_registered_model_alias("tiny", "champion", version)


def title(service: Service) -> str:
    assert service.served is not None
    return service.served.title


def test_another_champion_takes_over_and_what_was_asked_of_the_one_before_is_its_own(here: Path):
    service = Service(Limits())
    follower = Follower(CHAMPION, service, 0)
    follower.run()
    assert follower.error is None
    assert title(service) == "tiny/1"
    old, opened = service.model(), threading.Event()

    def drawing(served: Served) -> tasks.Task:
        opened.wait(60)
        return (yield from tasks.drawings(served.noise(3, 5), None))

    asked = service.batcher.submit(old.module, drawing(old))
    crown("2")
    follower.look()
    assert title(service) == "tiny/2"
    new = service.model()
    after = service.batcher.submit(new.module, drawing(new))
    opened.set()
    for future, version in ((asked, "1"), (after, "2")):
        assert torch.equal(future.result(60), seqgen.load(f"models:/tiny/{version}").sample(3, seed=5))
    served = service.served
    follower.look()
    assert service.served is served  # the same version is not loaded again


def test_a_champion_of_another_set_is_told_of_the_held_out_drawings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    work_in(tmp_path, monkeypatch)
    recipe = tiny_recipe(tmp_path)
    first = finished_run(recipe)
    register.register_trained(first)
    held_out = shutil.copytree(first.places.shards, tmp_path / "held-out")
    shutil.rmtree(first.places.root)
    second = finished_run(recipe, data_seed=1)
    register.register_trained(second)
    crown("1")
    service = Service(Limits(), HeldOutDrawings(held_out))
    app, follower = make_app(service), Follower(CHAMPION, service, 0)
    digests = [read_manifest(place).digest for place in (held_out, second.places.shards)]
    assert digests[0] != digests[1]
    with caplog.at_level(logging.WARNING, "seqgen.serving"):
        follower.run()
        told = ask(app, "/v1/model").json["held_out"]
        assert (told["digest"], told["trained_on"], told["unseen"]) == (digests[0], digests[0], True)
        assert caplog.records == []
        crown("2")
        follower.look()
        told = ask(app, "/v1/model").json["held_out"]
        assert (told["digest"], told["trained_on"], told["unseen"]) == (*digests, False)
    (line,) = [record.getMessage() for record in caplog.records]
    assert (
        f"its shards have manifest {digests[0][:12]}, tiny/2 was trained on manifest {digests[1][:12]}"
        in line
    )


def test_one_that_does_not_load_is_refused_once_in_the_log_and_tried_again(
    here: Path, caplog: pytest.LogCaptureFixture
):
    service = Service(Limits())
    follower = Follower(CHAMPION, service, 0)
    follower.run()
    weights = stored(here, "2") / "model/weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    crown("2")
    with caplog.at_level(logging.WARNING, "seqgen.serving"):
        follower.look()
        follower.look()
    assert title(service) == "tiny/1"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("tiny/1 is still served: version 2: ")
    assert "altered" in line
    weights.write_bytes(whole)
    follower.look()
    assert title(service) == "tiny/2"


def test_a_registry_that_is_away_changes_nothing(
    here: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    service = Service(Limits())
    follower = Follower(CHAMPION, service, 0)
    follower.run()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING, "seqgen.serving"):
        follower.look()
    assert title(service) == "tiny/1"
    assert "the registry does not serve us" in caplog.text


def test_what_cannot_be_had_at_first_is_an_error(here: Path):
    failed: list[Callable[[], None]] = []
    follower = Follower("models:/tiny@best", Service(Limits()), 0.01, failed=lambda: failed.append(print))
    follower.run()
    assert len(failed) == 1
    assert isinstance(follower.error, BadInput)
    assert "aliases @candidate = 2, @champion = 1" in str(follower.error)


@pytest.mark.parametrize("seconds", [math.inf, math.nan, -1, 1e300])
def test_seconds_that_cannot_be_waited_are_refused(seconds: float):
    with pytest.raises(BadInput, match=r"^follow_seconds="):
        Follower(CHAMPION, Service(Limits()), seconds)


def test_what_cannot_change_is_not_followed(here: Path):
    for source in ("models:/tiny/2", str(saved(here / "model"))):
        Follower(source, Service(Limits()), 0.01).run()  # comes back
