"""The head of a local Ray cluster, which runs in the background of one directory: up, down, running."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from pipelines.artifacts.places import state_root
from pipelines.cli import background
from pipelines.cli.subprocesses import GRACE
from pipelines.cluster.client import connect
from pipelines.cluster.storage import storage_root
from pipelines.tracking.runs import tracking_uri
from seqgen.core.environment import number
from seqgen.core.errors import BadInput, OperationalError, one_line
from seqgen.core.files import write_json
from seqgen.core.locks import held
from seqgen.core.machine import free_port

_STATE = Path(".seqgen/cluster.json")
_LOCK = Path(".seqgen/cluster.lock")  # held while the head is started or stopped
_LOG = Path(".seqgen/cluster.log")
_START_SECONDS = 180.0
_TOKEN_SECONDS = 120.0  # for another process that makes the token
_KILL_SECONDS = 60.0  # in which a killed job ends
# Ray's own 3 are too few to save in. Longer than a stopped `pipelines.retrain` waits for the processes of its line.
JOB_STOP_SECONDS = int(GRACE) + 30
# Ray gives these to its workers, and refuses them to anything else.
_WORKER_PORTS = range(10002, 20000)


def up(port: int, dashboard_port: int) -> dict[str, Any]:
    """Start a Ray head in the background and wait until it takes jobs; one that runs already, or starts, is kept.

    Jobs inherit its environment: where artifacts, checkpoints, locks and the tracking server are, as absolute
    paths, so that a job finds them although it runs in a copy of the code.
    Raises BadInput (ports), OperationalError.
    """
    for name, value in (("port", port), ("dashboard-port", dashboard_port)):
        _check_port(name, value)
    with held(_LOCK, timeout=_START_SECONDS + _KILL_SECONDS):
        return running() or _start(port, dashboard_port)


def _start(port: int, dashboard_port: int) -> dict[str, Any]:
    for name, value in (("port", port), ("dashboard-port", dashboard_port)):
        background.check_free(f"--{name}", value)
    # RAY_API_SERVER_ADDRESS: as in connect.py, so that Ray's watching actors ask this cluster.
    environment = _environment() | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard_port}"}
    make_token(environment)
    agent_port = free_port()  # Ray's own choice is the same for every cluster of a machine
    _LOG.parent.mkdir(exist_ok=True)
    command = [
        _ray(), "start", "--head", "--block", "--disable-usage-stats",
        f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}",
    ]  # fmt: skip
    with _LOG.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    state = {
        **background.identity(process.pid),
        "port": port,
        "dashboard": f"http://127.0.0.1:{dashboard_port}",
    }
    write_json(_STATE, state)
    print(f"starting Ray (pid {process.pid}, log {_LOG}) ...", flush=True)
    try:
        _wait(process, state["dashboard"], agent_port)
    except BaseException:
        _end(state)
        raise
    return state


def _environment() -> dict[str, str]:
    """What the head and all its jobs see: this interpreter first, a token, no pickle, time to save, absolute places."""
    places = {
        "SEQGEN_ARTIFACTS": str(Path(os.environ.get("SEQGEN_ARTIFACTS", "artifacts")).resolve()),
        "SEQGEN_STATE": str(state_root()),
        "SEQGEN_STORAGE": storage_root(),
        "MLFLOW_TRACKING_URI": tracking_uri(),
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    rules = {
        "RAY_AUTH_MODE": "token",
        "RAY_JOB_STOP_WAIT_TIME_S": str(job_stop_seconds()),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    return {**os.environ, **places, "PATH": path, **rules}


def job_stop_seconds() -> int:
    """From a job's SIGTERM to its SIGKILL: RAY_JOB_STOP_WAIT_TIME_S, rounded up as Ray takes no fractions, else ours.

    Raises BadInput.
    """
    return math.ceil(number("RAY_JOB_STOP_WAIT_TIME_S", JOB_STOP_SECONDS))


def _check_port(name: str, number: int) -> None:
    if not 1024 <= number <= 65535 or number in _WORKER_PORTS:
        raise BadInput(
            f"--{name} {number}: choose 1024 to 65535, but not 10002 to 19999, which are Ray's workers'"
        )


def _wait(process: subprocess.Popen[bytes], dashboard: str, agent_port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    waiting = [f"{dashboard}/api/version", f"http://127.0.0.1:{agent_port}/api/local_raylet_healthz"]
    while waiting:
        if process.poll() is not None:
            raise OperationalError(f"Ray ended with code {process.returncode} while starting; see {_LOG}")
        if time.monotonic() > deadline:
            raise OperationalError(
                f"Ray did not answer at {waiting[0]} within {_START_SECONDS:.0f} s; see {_LOG}"
            )
        if _answers(waiting[0]):
            waiting.pop(0)
        else:
            time.sleep(0.5)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        return error.code == 401  # it is there, and wants the token that we need not send for this
    except OSError:
        return False


def make_token(environment: dict[str, str]) -> None:
    """Have Ray write a token to ~/.ray/auth_token, as its local clusters do, if there is none anywhere.

    One process at a time: Ray would write another over the one that a cluster has begun with. Raises OperationalError.
    """
    token = Path("~/.ray/auth_token").expanduser()
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH") or _is_whole(token):
        return
    with held(token.with_name("auth_token.lock"), timeout=_TOKEN_SECONDS):
        if _is_whole(token):  # another directory's cluster was first
            return
        done = subprocess.run(
            [_ray(), "get-auth-token", "--generate"], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise OperationalError(f"Ray could not make a token: {done.stderr.strip().splitlines()[-1:]}")


def _is_whole(token: Path) -> bool:
    """Whether the file is there and, as Ray opens it before it writes, not empty."""
    return token.is_file() and token.stat().st_size > 0


def _ray() -> str:
    return str(Path(sys.executable).with_name("ray"))


def stop_jobs(dashboard: str) -> list[str]:
    """Send SIGTERM to the running jobs of the cluster at `dashboard`, wait until they have ended, return their ids.

    A job that has not ended after RAY_JOB_STOP_WAIT_TIME_S, as the head was started with it, is killed by Ray.
    Raises OperationalError if the cluster does not answer or refuses the token, or a job does not end.
    """
    patience = job_stop_seconds() + _KILL_SECONDS
    os.environ["RAY_AUTH_MODE"] = "token"
    client = connect(dashboard)
    from ray.exceptions import AuthenticationError

    try:
        jobs = [job.submission_id for job in client.list_jobs() if job.submission_id]
        stopped = [job for job in jobs if not client.get_job_status(job).is_terminal()]
        for job in stopped:
            client.stop_job(job)
        deadline = time.monotonic() + patience
        while left := [job for job in stopped if not client.get_job_status(job).is_terminal()]:
            if time.monotonic() > deadline:
                raise OperationalError(
                    f"{', '.join(left)} at {dashboard} did not end within {patience:g} s of SIGTERM; "
                    "`seqgen cluster down` ends the cluster with all that runs there"
                )
            time.sleep(0.5)
    except (AuthenticationError, RuntimeError, OSError) as error:
        raise OperationalError(f"the jobs of {dashboard} could not be stopped: {one_line(error)}") from error
    return stopped


def down() -> bool:
    """Stop the head that `up` started here, its jobs first, and nothing else; returns whether one was running."""
    if not _STATE.exists():
        return False
    with held(_LOCK, timeout=_START_SECONDS + _KILL_SECONDS):
        return _down()


def _down() -> bool:
    state = running()
    if state is None:
        _STATE.unlink(missing_ok=True)
        return False
    if _answers(f"{state['dashboard']}/api/version"):
        try:
            stop_jobs(state["dashboard"])
        except OperationalError as error:
            print(f"warning: {error}", file=sys.stderr)
    _end(state)
    return True


def _end(state: dict[str, Any]) -> None:
    """End the head and forget it."""
    background.stop(state["pid"])
    _forget(state["port"])
    _STATE.unlink(missing_ok=True)


def running() -> dict[str, Any] | None:
    """What `up` wrote, if that very process still runs."""
    try:
        state = json.loads(_STATE.read_text())
        return state if background.is_running(state) else None
    except (OSError, ValueError):
        return None


def _forget(port: int) -> None:
    """Remove Ray's note of the cluster to connect to by default, if it names ours, which has ended."""
    from ray._common.utils import get_ray_address_file

    note = Path(get_ray_address_file(None))
    with contextlib.suppress(OSError):
        if note.read_text().strip().endswith(f":{port}"):
            note.unlink()


def explain(state: dict[str, Any]) -> str:
    """Where the head is, how to submit to it and how to stop it."""
    return (
        f"Ray runs (pid {state['pid']}, port {state['port']}), dashboard {state['dashboard']}; submit with\n"
        f"  RAY_AUTH_MODE=token ray job submit --address {state['dashboard']} --working-dir . -- "
        "python -m pipelines.train --recipe quickstart\n"
        "stop it with\n  seqgen cluster down"
    )
