"""A training over several nodes of a real Ray cluster: one is killed, drained, added."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray_nodes import Nodes, kill, variables
from tests.train_runs import assert_complete, running, weights


@pytest.fixture
def nodes(place: Path) -> Iterator[Nodes]:
    made = Nodes(place)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_01_a_killed_worker_and_a_killed_node_cost_a_restart_each(
    undisturbed: str, place: Path, nodes: Nodes
):
    first, second = nodes.add(), nodes.add()
    with nodes.killer() as kill_one, running(place, **variables(nodes)) as run:
        run.wait_for("epoch  2/")
        workers, killed = kill_one(run.process.pid)
        assert len({node for _, node in workers}) == 2, "one on each node"
        assert len(killed) == 1
        assert killed[0] in workers
        run.wait_for("going on after epoch")
        kill(second)
        nodes.add()
        assert run.end() == 0, run.text
    assert_complete(place)
    assert weights(place) == undisturbed
    assert first.poll() is None
    assert "_AutoscalingCoordinatorActor" not in nodes.actors()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_11_fewer_workers_go_on_where_a_node_is_lost_for_good(place: Path, nodes: Nodes):
    nodes.add()
    lost = nodes.add()
    elastic = ("--set", "train.fewest_workers=1")
    with running(place, *elastic, **variables(nodes, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="20")) as run:
        run.wait_for("epoch  2/")
        kill(lost)
        assert run.end() == 0, run.text
    assert_complete(place)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_07_a_node_that_is_drained_is_saved_before_it_goes_and_another_goes_on(
    undisturbed: str, place: Path, nodes: Nodes
):
    nodes.add()
    drained = nodes.add()
    # Nothing else saves: what is gone on with was saved because of the drain.
    seldom = ("--set", "train.checkpoint_every=1000", "--set", "train.checkpoint_minutes=1000")
    with running(place, *seldom, **variables(nodes)) as run:
        run.wait_for("epoch  3/")
        nodes.drain(drained)
        run.wait_for("node ")
        assert "is being drained: saving" in run.lines[-1]
        run.wait_until(lambda: any((place / "storage").glob("*/step-*/index.json")))
        kill(drained)
        nodes.add()
        run.wait_for("going on after epoch")
        assert run.end() == 0, run.text
    assert_complete(place)
    assert weights(place) == undisturbed
