"""The HTTP API of `seqgen serve` as an application of Ray Serve, in as many replicas as that is told to keep.

`serve run pipelines.cluster.serving:app source=models:/<name>@<alias>` starts it.
"""

# Without `from __future__ import annotations`: Ray Serve looks at what `app` takes, and wants the class, not its name.

import logging
import threading
from pathlib import Path

from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from pipelines.tracking import runs
from seqgen.core.errors import BadInput
from seqgen.serving.http.limits import Limits

try:
    from ray import serve
except ModuleNotFoundError as error:
    raise BadInput(
        f"{error.name}: not installed; Ray Serve needs the extra: pip install 'seqgen[ray-serve]'"
    ) from None


class Arguments(BaseModel, frozen=True, extra="forbid"):
    """What an application is made with, as `serve run` takes it (key=value) or a configuration's `args`.

    The options of `seqgen serve` by their names; `limits` by those of `Limits`.
    """

    source: str
    held_out: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    follow_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    limits: Limits = Limits()


def app(arguments: Arguments) -> serve.Application:
    """The application, of one deployment, `seqgen`: replicas and what each has are for Serve's own configuration."""

    def build() -> ASGIApp:
        return _replica(arguments)

    limits = arguments.limits
    deployed = serve.deployment(
        name="seqgen",
        max_ongoing_requests=2 * limits.queue,  # the replica itself says, with 429, that too many wait
        graceful_shutdown_timeout_s=limits.seconds + 5,
    )
    return deployed(serve.ingress(build)()).bind()


def _replica(arguments: Arguments) -> ASGIApp:
    """What a replica answers with, once it has its model; it follows the alias by itself."""
    from seqgen.serving.http.app import make_app
    from seqgen.serving.http.follower import Follower
    from seqgen.serving.http.held_out import HeldOutDrawings
    from seqgen.serving.http.server import host_name
    from seqgen.serving.http.service import Service

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("seqgen.serving").setLevel(logging.INFO)
    if arguments.source.startswith("models:"):
        runs.connect()
    service = Service(arguments.limits, HeldOutDrawings(arguments.held_out) if arguments.held_out else None)
    follower = Follower(arguments.source, service, arguments.follow_seconds)
    follower.load()
    threading.Thread(target=follower.follow, name="follower", daemon=True).start()
    return make_app(service, allowed_hosts=[host_name(name) for name in arguments.allowed_hosts])
