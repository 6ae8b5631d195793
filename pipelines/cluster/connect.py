"""The Ray cluster a verb runs on: the one it is in or pointed at, else one of this machine while it runs."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from pipelines.cli.signals import check_stop, raise_on_stop
from seqgen.core.errors import BadInput, OperationalError, StoppedEarly
from seqgen.core.machine import cores, memory
from seqgen.settings import Recipe

if TYPE_CHECKING:
    pass

Device = Literal["auto", "cpu", "cuda"]
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Resources:
    """What a cluster has in all, free now or not; memory in bytes. `here`: it is this machine's."""

    cpus: int
    gpus: int
    memory: int
    here: bool

    def check(self, recipe: Recipe, device: Device) -> Literal["cpu", "cuda"]:
        """The device for the recipe's workers, one CPU (and one GPU) each. Raises BadInput without room."""
        from seqgen.training.memory import bytes_needed

        workers = recipe.train.workers
        where = "this machine" if self.here else "the Ray cluster"
        if workers > self.cpus:
            raise BadInput(
                f"train.workers={workers}: {where} has {self.cpus} CPUs; "
                f"use --workers {max(1, self.cpus)} or less"
            )
        if device == "cuda" and workers > self.gpus:
            raise BadInput(
                f"train.workers={workers} with --device cuda: {where} has {self.gpus} GPUs; "
                "use fewer --workers or --device cpu"
            )
        if device != "cpu" and workers <= self.gpus:
            return "cuda"
        if (needed := bytes_needed(recipe)) > self.memory:
            raise BadInput(
                f"model.steps={recipe.model.steps} with train.batch={recipe.train.batch} needs about "
                f"{needed / 2**30:.0f} GiB and {where} has {self.memory / 2**30:.0f} GiB; lower one of them, "
                "or set train.recompute"
            )
        return "cpu"


def this_machine() -> Resources:
    """The cores this process may use, the GPUs that PyTorch sees, the memory."""
    import torch

    return Resources(cores(), torch.cuda.device_count(), memory(), here=True)


def elsewhere() -> bool:
    """Whether a cluster is there already: inside a Ray job, or named by RAY_ADDRESS."""
    return os.environ.get("RAY_ADDRESS", "local") != "local"


@contextlib.contextmanager
def connected(dashboard: bool = False) -> Iterator[Resources]:
    """Connect to the cluster, or start one here, and leave it at the end. Raises OperationalError.

    A cluster started here sends no usage statistics and ends with this process. It has a dashboard, on
    loopback, only if asked for: its ten processes take seconds, and but for Ray Train within Ray Tune, which
    asks it whether a training still lives, nothing uses it. What workers print stays in Ray's log files.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # How often Ray Train looks at its workers: one report, and the end of a training, waits for the next look.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    import ray

    try:
        _start(ray, dashboard)
        check_stop()
        raise_on_stop()
        total = ray.cluster_resources()
        cpus, gpus, size = (int(total.get(name, 0)) for name in ("CPU", "GPU", "memory"))
        yield Resources(cpus, gpus, size, here=False) if elsewhere() else this_machine()
    finally:
        ray.shutdown()


def _start(ray: ModuleType, dashboard: bool) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        if elsewhere():
            ray.init(**quiet)
            return
        machine = this_machine()
        # Workers are children of the cluster's processes: they find the code through this.
        known = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{known}" if known else str(_ROOT)
        # It warns of a cloud's reclaimed nodes; here it would be one more process that imports for seconds.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # Ray's actors that watch a training ask its state at this address; without it they may find another
        # cluster of this machine, miss the training there, and take its workers' resources away.
        port = free_port()
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
        ray.init(
            "local",
            num_cpus=machine.cpus,
            num_gpus=machine.gpus,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            dashboard_port=port,
            **quiet,
        )
    except SystemExit as stopped:  # what Ray makes of a SIGTERM while it starts
        raise StoppedEarly("stopped by SIGTERM") from stopped
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = os.environ.get("RAY_ADDRESS", "a local cluster")
        raise OperationalError(f"Ray ({where}) cannot be reached or started: {error}") from error


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
