"""The Ray cluster a verb runs on: the one it is in or is pointed at, else one on this machine for as long as it runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.errors import BadInput, OperationalError
from pipelines.signals import raise_on_stop

Device = Literal["auto", "cpu", "cuda"]
_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Resources:
    """What a cluster has in all, whether or not it is free now. `here`: it is this machine's, started by us."""

    cpus: int
    gpus: int
    here: bool

    def check(self, workers: int, device: Device) -> Literal["cpu", "cuda"]:
        """The device for `workers` processes of one CPU (and one GPU) each. Raises BadInput if they do not fit."""
        where = "this machine" if self.here else "the Ray cluster"
        if workers > self.cpus:
            raise BadInput(
                f"train.workers={workers}: {where} has {self.cpus} CPUs; use --workers {max(1, self.cpus)} or less"
            )
        if device == "cuda" and workers > self.gpus:
            raise BadInput(
                f"train.workers={workers} with --device cuda: {where} has {self.gpus} GPUs; "
                "use fewer --workers or --device cpu"
            )
        return "cuda" if device != "cpu" and 0 < workers <= self.gpus else "cpu"


def this_machine() -> Resources:
    """The cores this process may use and the GPUs that PyTorch sees."""
    import torch

    return Resources(len(os.sched_getaffinity(0)), torch.cuda.device_count(), here=True)


def elsewhere() -> bool:
    """Whether a cluster is there already: inside a Ray job, or named by RAY_ADDRESS."""
    return os.environ.get("RAY_ADDRESS", "local") != "local"


@contextlib.contextmanager
def connected() -> Iterator[Resources]:
    """Connect to the cluster, or start one here, and leave it at the end. Raises OperationalError.

    A cluster started here listens on loopback alone, sends no usage statistics and ends with this process. What
    workers print stays in Ray's log files.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        if elsewhere():
            ray.init(log_to_driver=False, logging_level="error")
        else:
            machine = this_machine()
            # Workers are children of the cluster's processes: they find the code and settings through these.
            known = os.environ.get("PYTHONPATH")
            os.environ["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{known}" if known else str(_ROOT)
            # It warns of a cloud's reclaimed nodes; here it would be one more process that imports for seconds.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            ray.init(
                address="local",
                num_cpus=machine.cpus,
                num_gpus=machine.gpus,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level="error",
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = os.environ.get("RAY_ADDRESS", "a local cluster")
        raise OperationalError(f"Ray ({where}) cannot be reached or started: {error}") from error
    try:
        raise_on_stop()
        total = ray.cluster_resources()
        yield Resources(int(total.get("CPU", 0)), int(total.get("GPU", 0)), here=not elsewhere())
    finally:
        ray.shutdown()
