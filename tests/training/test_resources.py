"""Whether a training has room on a machine or a cluster, and on which device."""

from __future__ import annotations

import pytest

from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from seqgen.core.machine import Resources, cores
from seqgen.training.resources import device_for, this_machine

LARGE = 2**36


@pytest.mark.parametrize(
    ("gpus", "wanted", "device"),
    [(0, "auto", "cpu"), (2, "auto", "cuda"), (2, "cpu", "cpu"), (1, "auto", "cpu")],
)
def test_gpus_are_taken_if_every_worker_can_have_one(gpus: int, wanted: str, device: str):
    recipe = load_recipe("quickstart", ["train.workers=2"])
    assert device_for(recipe, Resources(8, gpus, LARGE), wanted) == device  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("resources", "wanted", "said"),
    [
        (
            Resources(1, 0, LARGE, "the Ray cluster"),
            "auto",
            "the Ray cluster has 1 CPUs; use --workers 1 or less",
        ),
        (Resources(8, 1, LARGE), "cuda", "this machine has 1 GPUs"),
        (Resources(8, 0, 2**20), "auto", "GiB"),
    ],
)
def test_what_has_no_room_is_refused_with_the_numbers(resources: Resources, wanted: str, said: str):
    with pytest.raises(BadInput, match=said):
        device_for(load_recipe("quickstart", ["train.workers=2"]), resources, wanted)  # type: ignore[arg-type]


def test_this_machine_has_the_cores_that_this_process_may_use():
    assert this_machine().cpus == cores()
    assert this_machine().memory > 0
