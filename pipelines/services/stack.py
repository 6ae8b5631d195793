"""The services together: up, down, running."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from pipelines.cli import background
from pipelines.services import postgres, s3, tracking_server
from pipelines.services.place import Place
from pipelines.services.service import Service
from seqgen.core.errors import BadInput
from seqgen.core.locks import held

SERVICES = ("postgres", "s3", "mlflow")
_WAIT = 600.0  # seconds for another `up` or `down`


def up(port: int) -> dict[str, Any]:
    """Start what does not run of the services, MLflow's server on `port`, and wait until they answer.

    Their data are kept between `down` and `up`. What was started is stopped again if not all of it starts.
    Raises BadInput (a program or package is missing; the port), OperationalError.
    """
    place = Place()
    place.make()
    with held(place.lock, timeout=_WAIT):
        state = running()
        if "mlflow" not in state:
            _check_port(port)
        tracking_server.check()
        begun: list[str] = []
        try:
            _up(place, state, "postgres", lambda: postgres.postgres(place), begun)
            postgres.make_databases(place)
            _up(place, state, "s3", lambda: s3.s3(place), begun)
            _up(place, state, "mlflow", lambda: tracking_server.tracking_server(place, port), begun)
        except BaseException:
            for name in reversed(begun):
                background.stop(state[name]["pid"], signal.Signals(state.pop(name)["stop"]))
            place.write_state(state)
            raise
        _write_environment(place, state["mlflow"]["port"])
    return state


def _up(place: Place, state: dict[str, Any], name: str, make: Any, begun: list[str]) -> None:
    if name in state:
        return
    service: Service = make()
    log = place.log(name)
    process = service.start(log)
    begun.append(name)
    state[name] = {
        **background.identity(process.pid),
        "address": service.address,
        "port": int(service.address.rpartition(":")[2]),
        "stop": int(service.stop),
    }
    place.write_state(state)
    print(f"starting {name} (pid {process.pid}, log {log}) ...", flush=True)
    service.wait(process, log)


def down() -> list[str]:
    """Stop what `up` started here, and nothing else, the last one first; returns what was running."""
    place = Place()
    if not place.root.is_dir():
        return []
    with held(place.lock, timeout=_WAIT):
        state = running()
        names = list(reversed(state))
        for name in names:
            background.stop(state[name]["pid"], signal.Signals(state[name]["stop"]))
            del state[name]
            place.write_state(state)
    return names


def running() -> dict[str, Any]:
    """What `up` wrote of the processes that still run, by name in the order of their start."""
    state = Place().read_state()
    return {name: state[name] for name in SERVICES if background.is_running(state.get(name))}


def explain(state: dict[str, Any]) -> str:
    """Where they are, how to use them, how to stop them."""
    environment = Place().root / "environment"
    lines = [f"{name} runs (pid {known['pid']}) at {known['address']}" for name, known in state.items()]
    return "\n".join(
        [
            *lines,
            "use them (it sets MLFLOW_TRACKING_URI, the login, and the address and keys of S3) with",
            f"  . {environment}",
            "for checkpoints on S3, too, with",
            f"  export SEQGEN_STORAGE=s3://{s3.BUCKET}/checkpoints",
            "stop them, and keep their data, with",
            "  seqgen services down",
        ]
    )


def _write_environment(place: Place, port: int) -> Path:
    """The lines to export, in a file that its owner alone can read: they hold a password and a key."""
    variables = tracking_server.client_environment(place, port) | s3.client_environment(place)
    lines = [f"export {name}='{value}'\n" for name, value in variables.items()]
    return place.write_secret("environment", "".join(lines))


def _check_port(number: int) -> None:
    if not 1024 <= number <= 65535:
        raise BadInput(f"--port {number}: choose 1024 to 65535")
    background.check_free("--port", number)
