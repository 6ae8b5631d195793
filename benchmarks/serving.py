"""Requests a second that `seqgen serve` answers, and how long one takes: `python -m benchmarks.serving`.

1, 8 and 32 clients ask for new exemplars of a drawing, each again as soon as it is answered, over a connection that
stays open. Beside them the same is asked of the model itself, in a loop of one process. The model is a recipe's with
the weights it starts from: how long a drawing takes does not depend on them. Clients and server share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import torch

import seqgen
from benchmarks import page
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput, OperationalError
from seqgen.models import build, save_model

_SIZE = 28
_START = 120.0  # seconds until the server answers, at most
_HEADERS = {"Content-Type": "application/json"}

Ask = Callable[[int], object]  # the question of that seed, until it is answered


class Rates(NamedTuple):
    """Requests a second, and the milliseconds within which half of them and 95 of 100 were answered."""

    requests: float
    median: float
    p95: float


def rates(times: Sequence[float], seconds: float) -> Rates:
    """Of the seconds that each request took, of all that ended in so many seconds."""
    if len(times) < 2:
        raise OperationalError(f"{len(times)} requests were answered in {seconds:g} s: raise --seconds")
    percentiles = statistics.quantiles(times, n=100, method="inclusive")
    return Rates(len(times) / seconds, 1000 * percentiles[49], 1000 * percentiles[94])


def measure(clients: Sequence[Ask], seconds: float) -> Rates:
    """Every client asks for `seconds`, after each has been answered once."""
    times: list[float] = []
    for number, ask in enumerate(clients):
        ask(number)
    began = time.perf_counter()

    def asks(number: int) -> None:
        while (asked := time.perf_counter()) < began + seconds:
            clients[number](number)
            times.append(time.perf_counter() - asked)

    with ThreadPoolExecutor(len(clients)) as threads:
        list(threads.map(asks, range(len(clients))))
    return rates(times, time.perf_counter() - began)


class Client:
    """Asks a server for exemplars over one connection."""

    def __init__(self, url: str, context: np.ndarray, samples: int) -> None:
        place = urlsplit(url)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=600)
        self._question = {"context": context.tolist(), "samples": samples}

    def __call__(self, seed: int) -> bytes:
        """Raises OperationalError if it is refused."""
        body = json.dumps({**self._question, "seed": seed})
        self._connection.request("POST", "/v1/exemplars", body, _HEADERS)
        response = self._connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise OperationalError(f"{response.status}: {content.decode()[:200]}")
        return content


@contextlib.contextmanager
def serving(model: Path) -> Iterator[str]:
    """The address of a server of the model in that directory, a process of its own."""
    command = [sys.executable, "-m", "pipelines.serve", str(model), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            _wait(url)
            yield url
        finally:
            process.terminate()


def _wait(url: str) -> None:
    place, end = urlsplit(url), time.monotonic() + _START
    while time.monotonic() < end:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=_START)
        connection.request("GET", "/healthz")
        if connection.getresponse().status == 200:
            return
        time.sleep(0.2)
    raise OperationalError(f"{url}: no model after {_START:g} s")


def images_in_a_pass(url: str) -> tuple[float, float]:
    """How many passes the server has made, and of how many images in all."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=600)
    connection.request("GET", "/metrics")
    lines = dict(line.rsplit(" ", 1) for line in connection.getresponse().read().decode().splitlines())
    return float(lines["seqgen_batch_images_count"]), float(lines["seqgen_batch_images_sum"])


def compare(directory: Path, clients: Sequence[int], samples: int, seconds: float) -> list[dict[str, Any]]:
    """A row for the model in a loop, and one for each number of clients."""
    context = (np.random.default_rng(0).random((_SIZE, _SIZE)) < 0.15).astype(np.float32)
    model = seqgen.load(directory)
    alone = measure([lambda seed: model.sample(samples, context=context, seed=seed)], seconds)
    rows = [{"clients": 0, "images": float(samples), **alone._asdict()}]
    with serving(directory) as url:
        for count in clients:
            passes, images = images_in_a_pass(url)
            asked = measure([Client(url, context.astype(int), samples) for _ in range(count)], seconds)
            more_passes, more_images = images_in_a_pass(url)
            together = (more_images - images) / (more_passes - passes)
            rows.append({"clients": count, "images": together, **asked._asdict()})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as markdown."""
    header = ["", "requests/s", "p50, ms", "p95, ms", "images in a pass"]
    lines = []
    for row in rows:
        who = (
            f"{row['clients']} client{'s' * (row['clients'] > 1)}"
            if row["clients"]
            else "the model in a loop"
        )
        cells = [f"{row[key]:.1f}" for key in ("requests", "median", "p95", "images")]
        lines.append([who, *cells])
    return page.table(header, lines)


def main() -> None:
    """Measure, print, and publish in docs/serving.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--recipe", default="quickstart-characters", help="a conditional one; default: %(default)s"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--samples", type=int, default=20, help="exemplars of a request; default: %(default)s"
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of each measurement; default: %(default)s"
    )
    arguments = parser.parse_args()
    config = load_recipe(arguments.recipe).model
    if not config.conditional:
        raise BadInput(f"--recipe {arguments.recipe}: it draws no exemplars; choose a conditional one")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        save_model(build(config, _SIZE, _SIZE, 0.1).eval(), Path(directory))
        rows = compare(Path(directory), arguments.clients, arguments.samples, arguments.seconds)
    machine = page.machine(torch.device("cpu"))
    said = (
        f"`{page.command()}`: {arguments.samples} exemplars a request of the model of `{arguments.recipe}`, T = "
        f"{config.steps}, {_SIZE}x{_SIZE}; {machine['chip']}, {machine['cores']} cores, torch {machine['torch']}."
    )
    page.publish(
        "serving", {"rows": rows, "machine": machine}, f"{table(rows)}\n\n{said}", page.DOCS / "serving.md"
    )
    print(table(rows))


if __name__ == "__main__":
    page.run(main)
