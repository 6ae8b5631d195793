"""`mlflow models serve` answers as MLflow in Python does, and as `seqgen serve`, for the same seed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests

from pipelines import register
from pipelines.tracking import runs
from tests.finished_run import finished_run, outside, tiny_recipe, work_in
from tests.free_ports import free_ports
from tests.serve_process import WAIT, ServeProcess
from tests.serving.test_follower import CHAMPION

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def mlflow_models_serve(where: Path, uri: str) -> Iterator[str]:
    """Within it MLflow's own server answers with that model, by the code that is stored with it; its address."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager=local", f"--model-uri={uri}"]
    programs = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it starts uvicorn by its name
    )
    environment = outside(
        MLFLOW_TRACKING_URI=runs.tracking_uri(), MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false", PATH=programs
    )
    del environment["PYTHONPATH"]
    path = where / "mlflow-serve.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host=127.0.0.1", f"--port={port}"],
            cwd=where, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        end, url = time.monotonic() + WAIT, f"http://127.0.0.1:{port}"
        while True:
            assert process.poll() is None, path.read_text()
            assert time.monotonic() < end, path.read_text()
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/ping", timeout=WAIT).ok:
                    break
            time.sleep(0.1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def invoke(url: str, given: np.ndarray, **params: int) -> requests.Response:
    return requests.post(
        f"{url}/invocations", json={"inputs": given.tolist(), "params": params}, timeout=WAIT
    )


def predictions(url: str, given: np.ndarray, **params: int) -> np.ndarray:
    answer = invoke(url, given, **params)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["predictions"], np.float32)


def images(server: ServeProcess, path: str, question: dict[str, Any]) -> np.ndarray:
    answer = server.post(path, {**question, "format": "array"})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["images"], np.float32)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_same_seed_has_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conditional: bool
):
    work_in(tmp_path, monkeypatch)
    register.register_trained(finished_run(tiny_recipe(tmp_path, conditional=conditional)))
    path = list(sys.path)
    model = mlflow.pyfunc.load_model(CHAMPION)
    sys.path[:] = path  # MLflow puts the model's code first
    with (
        mlflow_models_serve(tmp_path, CHAMPION) as url,
        ServeProcess(tmp_path, CHAMPION, "--max-samples=300") as ours,
    ):
        if not conditional:
            drawn = predictions(url, np.array([300]), seed=7)  # more than a pass
            np.testing.assert_array_equal(drawn, model.predict(np.array([300]), params={"seed": 7}))
            np.testing.assert_array_equal(drawn, images(ours, "/v1/samples", {"samples": 300, "seed": 7}))
            assert (drawn != predictions(url, np.array([300]), seed=8)).any()
            return
        contexts, asked = np.random.default_rng(0).random((3, 28, 28), np.float32), {"samples": 20, "seed": 7}
        together = predictions(url, contexts, **asked)
        np.testing.assert_array_equal(together, model.predict(contexts, params=asked))
        for context, drawn in zip(contexts, together, strict=True):
            alone = predictions(url, context[None], **asked)[0]
            question = {**asked, "context": context.tolist()}
            np.testing.assert_array_equal(alone, images(ours, "/v1/exemplars", question))
            np.testing.assert_allclose(drawn, alone, atol=1e-5)  # a pass of another size rounds otherwise
        refused = invoke(url, contexts, seed=-1)
        assert refused.status_code == 400
        assert "a seed from 0, not -1" in refused.text
