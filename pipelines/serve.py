"""Serve a model over HTTP: a page to draw with, and an API."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.command import run
from pipelines.cli.signals import on_stop
from seqgen.serving.http.limits import Limits

SourceArgument = Annotated[
    str, typer.Argument(help="models:/<name>@<alias>, models:/<name>/<version> or a model's directory.")
]
HostOption = Annotated[str, typer.Option(help="Address to listen on; others than loopback are open to all.")]
PortOption = Annotated[int, typer.Option(help="Port to listen on; 0: any that is free.", min=0, max=65535)]
AllowedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed-host",
        metavar="NAME",
        help="Name by which a proxy makes the server known; may be repeated.",
    ),
]
HeldOutOption = Annotated[
    Path | None, typer.Option(help="Directory of shards whose test split the page shows and plays with.")
]
FollowOption = Annotated[
    float, typer.Option(help="Seconds between looks at what the alias names; 0: never.", min=0)
]
SamplesOption = Annotated[int, typer.Option(help="Drawings of one request.", min=1)]
ImagesOption = Annotated[int, typer.Option(help="Images given in one request.", min=1)]
BodyOption = Annotated[int, typer.Option(help="Bytes of a request's body.", min=1)]
SecondsOption = Annotated[float, typer.Option(help="Seconds that one request may take.", min=0.001)]
QueueOption = Annotated[int, typer.Option(help="Requests that are read, wait or are worked on.", min=1)]


def serve(
    source: SourceArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8080,
    allowed_hosts: AllowedOption = None,
    held_out: HeldOutOption = None,
    follow_seconds: FollowOption = 30.0,
    max_samples: SamplesOption = Limits.samples,
    max_images: ImagesOption = Limits.images,
    max_body: BodyOption = Limits.body_bytes,
    max_seconds: SecondsOption = Limits.seconds,
    max_queue: QueueOption = Limits.queue,
) -> None:
    """Serve a model over HTTP until SIGTERM or Ctrl-C, which ends with 0 after what is under way.

    What is asked beyond --max-... is refused. A new holder of the alias takes over without a request lost; one that
    does not load is refused, with a line in the log.
    """
    from pipelines.tracking import runs
    from seqgen.serving.http.app import make_app
    from seqgen.serving.http.follower import Follower
    from seqgen.serving.http.held_out import HeldOutDrawings
    from seqgen.serving.http.server import Server, host_name, loopback_names
    from seqgen.serving.http.service import Service

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("seqgen.serving").setLevel(logging.INFO)
    limits = Limits(
        samples=max_samples,
        images=max_images,
        body_bytes=max_body,
        seconds=max_seconds,
        queue=max_queue,
    )
    if source.startswith("models:"):
        runs.connect()
    allowed = [host_name(name) for name in allowed_hosts or ()]
    server, names = Server(host, port), loopback_names(host)
    if names is None:
        print(
            f"warning: {host} is reached from other machines, and everyone there may ask: no login",
            flush=True,
        )
    service = Service(limits, HeldOutDrawings(held_out) if held_out else None)
    follower = Follower(source, service, follow_seconds, failed=server.stop)
    with on_stop(server.stop):
        threading.Thread(target=follower.run, name="follower", daemon=True).start()
        print(f"loading {source}; listening at {server.url}", flush=True)
        server.run(make_app(service, names, allowed), patience=limits.seconds + 5)
        service.batcher.stop()
    if follower.error is not None:
        raise follower.error


if __name__ == "__main__":
    run(serve)
