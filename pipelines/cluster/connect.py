"""The Ray cluster a verb runs on: the one it is in or pointed at, else one of this machine while it runs."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pipelines.cli.signals import check_stop, raise_on_stop
from seqgen.core.errors import BadInput, OperationalError, SeqgenError, StoppedEarly, one_line
from seqgen.core.machine import Resources, free_port

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 15.0  # seconds in which a cluster's control service must answer
_COORDINATOR = "AutoscalingCoordinator"  # Ray's name of an actor, and of its namespace


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
        resources = _start(ray, dashboard)
        check_stop()
        raise_on_stop()
        yield resources
    finally:
        if elsewhere() and ray.is_initialized():
            _end_coordinator(ray)
        ray.shutdown()


def _end_coordinator(ray: ModuleType) -> None:
    """End the actor in which Ray Train counts what trainings want of the cluster, if no other driver is left there.

    It is detached: Ray would leave it behind for good. The next training starts one again.
    """
    from ray._private.worker import global_worker
    from ray._raylet import RAY_INTERNAL_NAMESPACE_PREFIX  # type: ignore[attr-defined]

    with contextlib.suppress(
        ray.exceptions.RayError, ValueError
    ):  # the cluster is gone, or there is no such actor
        jobs = global_worker.gcs_client.get_all_job_info(  # type: ignore[attr-defined]
            skip_submission_job_info_field=True, skip_is_running_tasks_field=True, timeout=_PATIENCE
        )
        ours = ray.get_runtime_context().get_job_id()
        others = [
            job
            for job in jobs.values()
            if not job.is_dead
            and job.job_id.hex() != ours
            and not job.config.ray_namespace.startswith(RAY_INTERNAL_NAMESPACE_PREFIX)
        ]
        if not others:
            ray.kill(ray.get_actor(_COORDINATOR, namespace=_COORDINATOR))


def check_answers(address: str) -> None:
    """Raise OperationalError unless the cluster at `address` answers, within 20 seconds.

    Ray itself waits in silence, for minutes, for a cluster that is gone. Raises BadInput for an address of
    another kind.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die

    if address == "auto":
        address = canonicalize_bootstrap_address_or_die(address)
    scheme, _, place = address.rpartition("://")
    host, _, port = place.rpartition(":")
    if scheme not in ("", "ray") or not host or not port.isdecimal():
        raise BadInput(
            f"RAY_ADDRESS={address}: give <host>:<port> of the head's control service (Ray's default port is "
            "6379); the dashboard's http address is for `seqgen submit --address`"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise _gone(address, f"nothing answers there: {error.strerror or error}") from None
    _check_grpc(address, place)


def _check_grpc(address: str, place: str) -> None:
    """A channel is ready when the other side has sent its settings: it is a gRPC server, and it lives."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel

    channel = init_grpc_channel(place)
    try:
        grpc.channel_ready_future(channel).result(timeout=_PATIENCE)
    except grpc.FutureTimeoutError:
        why = f"it takes connections, and does not answer within {_PATIENCE:.0f} s"
        raise _gone(address, why) from None
    finally:
        channel.close()


def _gone(address: str, why: str) -> OperationalError:
    return OperationalError(
        f"RAY_ADDRESS={address}: {why}; start that cluster (here: seqgen cluster up), name another "
        "one, or unset RAY_ADDRESS to train on this machine"
    )


def _start(ray: ModuleType, dashboard: bool) -> Resources:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        if elsewhere():
            check_answers(os.environ["RAY_ADDRESS"])
            ray.init(**quiet)
            total = ray.cluster_resources()
            cpus, gpus, memory = (int(total.get(name, 0)) for name in ("CPU", "GPU", "memory"))
            return Resources(cpus, gpus, memory, owner="the Ray cluster")
        from seqgen.training.resources import this_machine

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
        with _in_other_groups():
            ray.init(
                "local",
                num_cpus=machine.cpus,
                num_gpus=machine.gpus,
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                dashboard_port=port,
                **quiet,
            )
        return machine
    except SystemExit as stopped:  # what Ray makes of a SIGTERM while it starts
        raise StoppedEarly("stopped by SIGTERM") from stopped
    except ray.exceptions.AuthenticationError as error:
        raise OperationalError(
            f"Ray ({os.environ.get('RAY_ADDRESS')}) refuses us: {one_line(error)}; RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH names the cluster's token"
        ) from error
    except SeqgenError:
        raise
    except Exception as error:  # Ray raises just that where one of its processes does not start
        where = os.environ.get("RAY_ADDRESS", "a local cluster")
        raise OperationalError(f"Ray ({where}) cannot be reached or started: {error}") from error


@contextlib.contextmanager
def _in_other_groups() -> Iterator[None]:
    """Let Ray start its processes, and with them our workers, in process groups of their own, as on Windows.

    A signal to our group (kill, timeout, a terminal) is for the driver alone, which has the workers save. Linux
    ends them with the driver; elsewhere Ray does, by the group, so there they stay in it.
    """
    from ray._private import services

    popen = services.ConsolePopen
    if sys.platform == "linux":
        services.ConsolePopen = functools.partial(popen, process_group=0)  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        services.ConsolePopen = popen  # type: ignore[misc]
