"""What a change of the number of workers costs a training: `python -m benchmarks.elastic`.

A training of two workers on a real Ray cluster of three nodes, of this machine, that may go on with one
(train.fewest_workers=1): the node of one is killed, and when the other has gone on, a new one is added. Timed is from
the change to the end of the first epoch after it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import page
from seqgen.core.errors import OperationalError
from tests.ray_nodes import Nodes, kill, variables
from tests.train_runs import Run, prepare_unhurried, running

_EPOCHS = 9000
_BEFORE = f"epoch {5:{len(str(_EPOCHS))}}/"
_GOES_ON = "going on after epoch"
# What Ray waits, by default, for as many workers as there were; tests wait longer.
_RAYS_OWN = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60"}


def one_round() -> dict[str, float]:
    """Seconds to the first epoch with fewer workers, and with more."""
    with tempfile.TemporaryDirectory() as directory:
        place = prepare_unhurried(Path(directory))
        nodes = Nodes(place)
        try:
            nodes.add()
            lost = nodes.add()
            elastic = ("--set", "train.fewest_workers=1", "--set", f"train.epochs={_EPOCHS}")
            with running(place, *elastic, **variables(nodes, **_RAYS_OWN)) as run:
                run.wait_for(_BEFORE)
                began = time.monotonic()
                kill(lost)
                fewer = _gone_on(run) - began
                nodes.add()
                began = time.monotonic()
                more = _gone_on(run) - began
        finally:
            nodes.end()
    return {"fewer": fewer, "more": more}


def _gone_on(run: Run) -> float:
    """The time of the end of the first epoch after the workers were started anew."""
    run.wait_for(_GOES_ON)
    run.wait_for("epoch ")
    return time.monotonic()


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the section `elastic` of docs/cluster.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.elastic", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=3, help="changes of each kind, of which the median is taken"
    )
    options = parser.parse_args(arguments)
    rounds = []
    for number in range(options.rounds):
        try:
            rounds.append(one_round())
        except AssertionError as error:  # of tests/train_runs: the training ended
            raise OperationalError(f"round {number + 1}: {error}") from None
        print(rounds[-1], flush=True)
    machine = page.machine(torch.device("cpu"))
    rows = [
        [
            what,
            f"{statistics.median(one[key] for one in rounds):.0f}",
            ", ".join(f"{one[key]:.0f}" for one in rounds),
        ]
        for key, what in (
            ("fewer", "two workers become one: a node is killed"),
            ("more", "one becomes two: a node is added"),
        )
    ]
    note = (
        f"`{page.command()}`: {machine['chip']}, {machine['cores']} cores, on which all three nodes run, torch "
        f"{machine['torch']}; epochs of a tenth of a second, a checkpoint at the end of each."
    )
    table = page.table(["", "to the first epoch after it, s", "each"], rows)
    page.publish(
        "elastic", {"machine": machine, "rounds": rounds}, f"{table}\n\n{note}", page.DOCS / "cluster.md"
    )
    print(f"{table}\n\n{note}")


if __name__ == "__main__":
    page.run(main)
