"""The HTTP API on Ray Serve, deployed on a real cluster as KubeRay deploys it, answers as `seqgen serve` does."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import psutil
import pytest
import requests
import yaml

import seqgen
from pipelines import register
from tests.cluster_site import Site, cluster_site
from tests.finished_run import finished_run, tiny_recipe, work_in
from tests.free_ports import free_ports
from tests.infra.kube import documents
from tests.serve_process import WAIT, ServeProcess
from tests.served_models import SHAPE, as_png, binary_images, saved
from tests.serving.test_follower import CHAMPION, crown

pytestmark = pytest.mark.slow
pytest.importorskip("grpc_reflection", reason="the extra ray-serve is not installed")
MANIFEST = Path(__file__).parents[2] / "infra/kubernetes/serve-rayservice.yaml"
X = binary_images(2)
SHOWN = {"context": [as_png(X[0]), as_png(X[1])], "seed": 7}
QUESTIONS: tuple[tuple[str, Any], ...] = (
    ("/v1/exemplars", {**SHOWN, "format": "array"}),
    ("/v1/exemplars", {**SHOWN, "temperature": 0.5, "samples": 200}),
    ("/v1/walk", {"context": X[0].tolist(), "seed_from": 1, "seed_to": 2}),
    ("/v1/trace", {**SHOWN, "x": X.tolist(), "format": "array"}),
    ("/v1/nll", {**SHOWN, "x": X.tolist(), "num_samples": 300}),
    ("/v1/impute", {**SHOWN, "x": X[0].tolist(), "missing": [[1] * SHAPE[1]] * SHAPE[0], "steps": 20}),
    ("/v1/exemplars", {**SHOWN, "samples": 21}),
    ("/v1/exemplars", {**SHOWN, "seed": -1}),
    ("/v1/samples", {"samples": 2}),
    ("/v1/nothing", {}),
)


def application(name: str, prefix: str, source: str, replicas: int, **arguments: Any) -> dict[str, Any]:
    """The application of the manifest with a model of the test's, as small as the machine."""
    (manifest,) = documents(MANIFEST)
    (made,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    made["args"] = {"source": source, **arguments}
    made["deployments"][0] |= {"num_replicas": replicas, "ray_actor_options": {"num_cpus": 0.5}}
    return {**made, "name": name, "route_prefix": prefix}


def serve(site: Site, *words: str) -> tuple[int, str]:
    program = str(Path(sys.executable).with_name("serve"))
    return site.call(program, *words, "--address", site.dashboard, RAY_AUTH_MODE="token")


def deploy(site: Site, *applications: dict[str, Any]) -> str:
    """Deploy them on the cluster, by its dashboard; where they will answer."""
    (port,) = free_ports(1)
    http = {"host": "127.0.0.1", "port": port}
    (site.where / "serve.yaml").write_text(
        yaml.safe_dump({"http_options": http, "applications": list(applications)})
    )
    code, text = serve(site, "deploy", "serve.yaml")
    assert code == 0, text
    return f"http://127.0.0.1:{port}"


def wait_until(site: Site, true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while True:
        try:
            if true():
                return
        except requests.RequestException:
            pass
        if time.monotonic() > end:
            raise AssertionError(serve(site, "status")[1])
        time.sleep(0.2)


def posts(url: str) -> int:
    """How many questions the replica that answers has had."""
    metrics = requests.get(f"{url}/metrics", timeout=WAIT).text
    return sum(
        map(int, re.findall(r'^seqgen_requests_total{path="(?!/healthz|/metrics).*} (\d+)$', metrics, re.M))
    )


def processes(site: Site) -> list[psutil.Process]:
    """Those that run in the site's own home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("HOME") == site.environment["HOME"]:
                found.append(process)
    return found


def test_every_replica_answers_as_seqgen_serve_and_follows_the_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    work_in(tmp_path, monkeypatch)
    model = saved(tmp_path / "model", conditional=True)
    recipe = tiny_recipe(tmp_path)
    for seed in (0, 1):
        register.register_trained(finished_run(recipe, seed=seed))
    crown("1")
    # The cluster's home is another: its kernels are to be the same.
    kernels = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    with (
        cluster_site(tmp_path, OMP_NUM_THREADS="1", XDG_CACHE_HOME=kernels) as site,
        ServeProcess(tmp_path, model) as ours,
    ):
        url = deploy(
            site,
            application("directory", "/", str(model), 2),
            application("champion", "/champion", CHAMPION, 1, follow_seconds=0.2),
        )
        wait_until(
            site,
            lambda: all(requests.get(url + at, timeout=WAIT).ok for at in ("/healthz", "/champion/healthz")),
        )
        statuses = []
        for path, question in QUESTIONS:
            expected = ours.post(path, question)
            statuses.append(expected.status_code)
            for _ in range(6):  # by chance of both replicas
                answer = requests.post(url + path, json=question, timeout=WAIT)
                assert (answer.status_code, answer.json()) == (expected.status_code, expected.json()), path
        assert statuses == [200] * 7 + [422, 422, 404]
        wait_until(site, lambda: 0 < posts(url) < 6 * len(QUESTIONS))  # one says its own part of them
        for path in ("/v1/model", "/openapi.json"):
            assert requests.get(url + path, timeout=WAIT).json() == ours.get(path).json()
        page = requests.get(url, timeout=WAIT)
        assert (page.status_code, page.content) == (200, ours.get("/").content)
        below = requests.get(f"{url}/champion/", timeout=WAIT)
        assert below.content == page.content
        for name in [
            *re.findall(r'(?:src|href)="(?!#|https:)(.+?)"', below.text),
            "static/api.js",
            "docs.css",
        ]:
            assert requests.get(urljoin(below.url, name), timeout=WAIT).ok, name
        assert requests.get(urljoin(below.url, "v1/model"), timeout=WAIT).json()["name"] == "tiny"
        foreign = requests.get(url, headers={"Origin": "http://evil.example"}, timeout=WAIT)
        assert foreign.status_code == 403

        asked = {"samples": 20, "seed": 3, "format": "array"}

        def champion() -> dict[str, Any]:
            return requests.post(f"{url}/champion/v1/samples", json=asked, timeout=WAIT).json()

        for version in ("1", "2"):
            crown(version)
            wait_until(site, lambda wanted=f"tiny/{version}": champion()["model"] == wanted)  # type: ignore[misc]
            assert champion()["images"] == seqgen.load(f"models:/tiny/{version}").sample(20, seed=3).tolist()
        assert len(processes(site)) > 5
    assert not psutil.wait_procs(processes(site), timeout=60)[1]
