"""A training over several nodes of a real Ray cluster: one is killed, drained, added."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network import WIRE, Network
from tests.ray_nodes import Nodes, kill, variables
from tests.train_runs import assert_complete, in_phase, running, train, weights


@pytest.fixture
def nodes(place: Path) -> Iterator[Nodes]:
    made = Nodes(place)
    try:
        yield made
    finally:
        made.end()


@pytest.mark.slow
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


@pytest.fixture
def network() -> Iterator[Network | None]:
    """Machines whose wires can be cut; None where network namespaces may not be made."""
    try:
        made = Network()
    except OSError:
        yield None
        return
    try:
        yield made
    finally:
        made.end()


@pytest.mark.slow
def test_01_and_11_fewer_workers_go_on_where_a_node_is_cut_off_for_good(place: Path, network: Network | None):
    """Its processes live on, unreached, and do no harm. Where there is no network to cut, it is killed."""
    nodes = Nodes(place, network)
    try:
        if network:
            nodes.variables["GLOO_SOCKET_IFNAME"] = WIRE
            # Or a raylet that is cut off ends itself after a minute.
            nodes.variables["RAY_gcs_rpc_server_reconnect_timeout_s"] = "1800"
        nodes.add()
        lost = nodes.add()
        elastic = ("--set", "train.fewest_workers=1")
        patience = variables(nodes, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="20")
        with running(place, *elastic, **patience) as run:
            run.wait_for("epoch  2/")
            run.wait_until(lambda: any((place / "storage").glob("*/step-*/index.json")))
            if network:
                network.cut(network.machines[1])
            else:
                kill(lost)
            run.wait_for("going on after epoch")
            assert (lost.poll() is None) == bool(network)
            assert run.end() == 0, run.text
        assert_complete(place)
    finally:
        nodes.end()


@pytest.mark.slow
def test_07_a_node_that_is_drained_is_saved_before_it_goes_and_another_goes_on(
    undisturbed: str, place: Path, nodes: Nodes
):
    nodes.add()
    drained = nodes.add()
    drained_id = nodes.id_of(drained)
    in_phase(place, "train", calls=24, seconds=30)  # the training waits while the drain is announced
    # Nothing else saves: what is gone on with was saved because of the drain.
    seldom = ("--set", "train.checkpoint_every=1000", "--set", "train.checkpoint_minutes=1000")
    with running(place, *seldom, **variables(nodes)) as run:
        run.wait_until((place / "train-0").exists)
        nodes.drain(drained_id)
        run.wait_for("node ")
        assert "is being drained: saving" in run.lines[-1]
        run.wait_until(lambda: any((place / "storage").glob("*/step-*/index.json")))
        kill(drained)
        nodes.add()
        run.wait_for("going on after epoch")
        assert run.end() == 0, run.text
    assert_complete(place)
    assert weights(place) == undisturbed


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may hide a folder from a node")
def test_09_a_set_that_one_node_lacks_is_told_at_once_with_that_node(place: Path, nodes: Nodes):
    nodes.add()
    shards = place / "artifacts/tiny/shards"
    lacking = nodes.id_of(nodes.add(hidden=shards))
    done = train(place, **variables(nodes))
    assert done.returncode == 2, done.stdout + done.stderr
    told = (
        rf"^error: rank [01] on node .+ \({lacking}\): {re.escape(str(shards))}/manifest\.json: no manifest"
    )
    assert re.search(told, done.stderr, re.MULTILINE), done.stderr


@pytest.mark.slow
def test_46_a_training_that_waits_for_room_says_so_and_stops_at_once(place: Path, nodes: Nodes):
    nodes.add()
    nodes.hold(1)
    with running(place, "--workers=1", **variables(nodes)) as run:
        run.wait_for("waits for ")
        assert run.lines[-1] == "waits for 1 worker with a CPU; the cluster has 0 CPUs free\n"
        run.process.terminate()
        assert run.end() == 4, run.text
    assert "Go on with: python -m pipelines.train --recipe tiny.yaml" in run.lines[-1]
