"""Case 23: a training whose storage, a real S3 server, goes away for the whole of its saves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fault_proxy import FaultProxy
from tests.train_runs import EPOCHS, assert_complete, running, train, weights

pytestmark = pytest.mark.slow
EVERY_TEN = "--set=train.checkpoint_every=10"  # so many unsaved ones in a row would end it


@pytest.fixture
def variables(s3_proxy: FaultProxy, place: Path) -> dict[str, str]:
    """What a training is given that stores behind the proxy; an outage of a second is one."""
    return {"SEQGEN_STORAGE": f"s3://runs/{place.name}", "AWS_MAX_ATTEMPTS": "1"}


def test_23_a_training_goes_on_through_an_outage_and_what_it_saves_catches_up(
    undisturbed: str, s3_proxy: FaultProxy, variables: dict[str, str], place: Path
):
    with running(place, EVERY_TEN, **variables) as run:
        run.wait_for("epoch  3/")
        s3_proxy.down()
        run.wait_for("warning: no checkpoint can be saved; training goes on")
        run.wait_for("epoch 20/")
        s3_proxy.up()
        run.wait_for(f"checkpoints are saved again: s3://runs/{place.name}/")
        assert run.end() == 0, run.text
    assert_complete(place)
    assert weights(place) == undisturbed


def test_23_an_outage_that_outlasts_the_training_is_told_and_the_same_command_sends_what_is_left(
    undisturbed: str, s3_proxy: FaultProxy, variables: dict[str, str], place: Path
):
    with running(place, EVERY_TEN, **variables, SEQGEN_UPLOAD_SECONDS="5") as run:
        run.wait_for("epoch  3/")
        s3_proxy.down()
        assert run.end() == 1, run.text
    assert f"epoch {EPOCHS}/{EPOCHS}" in run.text
    told = re.search(r"not saved within 5 s: .* cannot be reached.*; it lies in ([^ ]+?)[, ]", run.text)
    assert told is not None, run.text
    assert (Path(told[1]) / "index.json").is_file()
    assert "Go on with: " in run.text
    s3_proxy.up()
    done = train(place, EVERY_TEN, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"saved now, as its process ended before it could: s3://runs/{place.name}/" in done.stdout
    assert f"going on after epoch {EPOCHS}\n" in done.stdout, "nothing is trained again"
    assert_complete(place)
    assert weights(place) == undisturbed
    assert not Path(told[1]).exists()
