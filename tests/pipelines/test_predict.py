"""A champion as MLflow loads it: in a fresh process, with other code in reach, and what it refuses to draw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow.exceptions import MlflowException

import seqgen
from pipelines import register
from pipelines.tracking import runs
from tests.finished_run import finished_run, outside, tiny_recipe, work_in


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work_in(tmp_path, monkeypatch)
    return tmp_path


PREDICT = """
import json, mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/tiny@champion")
import seqgen
given = np.ones((2, 28, 28), np.float32) if {conditional} else np.array([5], np.int64)
parameters = dict(samples=3, seed=1) if {conditional} else dict(seed=1)
one, two = model.predict(given, params=parameters), model.predict(given, params=parameters)
other = model.predict(given, params=dict(parameters, seed=2))
print(json.dumps(dict(shape=one.shape, dtype=str(one.dtype), low=float(one.min()), high=float(one.max()),
    same=bool((one == two).all()), other=bool((one == other).all()), code=seqgen.__file__)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_champion_predicts_in_a_fresh_process(here: Path, conditional: bool) -> None:
    trained = finished_run(tiny_recipe(here, conditional=conditional))
    result = register.register_trained(trained)
    assert result["promoted"]
    assert result["champion"] == result["version"] == "1"
    environment = outside(
        MLFLOW_TRACKING_URI=runs.tracking_uri(), MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"
    )
    del environment["PYTHONPATH"]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT.format(conditional=conditional)],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["shape"] == ([2, 3, 28, 28] if conditional else [5, 28, 28])
    assert said["dtype"] == "float32"
    assert 0 < said["low"] < said["high"] < 1
    assert said["same"]
    assert not said["other"]
    assert "mlartifacts" in said["code"]  # the code stored with the model, not the repository's


@pytest.mark.parametrize("conditional", [False, True])
def test_it_draws_what_python_draws(here: Path, conditional: bool) -> None:
    register.register_trained(finished_run(tiny_recipe(here, conditional=conditional)))
    path = list(sys.path)
    model = mlflow.pyfunc.load_model("models:/tiny@champion")
    sys.path[:] = path  # MLflow puts the model's code first
    ours = seqgen.load("models:/tiny@champion")
    if not conditional:
        drawn = model.predict(np.array([300]), params={"seed": 4})
        np.testing.assert_allclose(drawn, ours.sample(300, seed=4), atol=1e-5)
        return
    contexts = np.random.default_rng(0).random((3, 28, 28), np.float32)
    together = model.predict(contexts, params={"samples": 50, "seed": 4})
    for context, drawn in zip(contexts, together, strict=True):
        alone = model.predict(context[None], params={"samples": 50, "seed": 4})
        np.testing.assert_allclose(drawn, alone[0], atol=1e-5)
        np.testing.assert_allclose(drawn, ours.sample(50, context=context, seed=4), atol=1e-5)


def test_what_is_not_to_be_drawn_is_an_error_that_says_why(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register.register_trained(finished_run(tiny_recipe(here, conditional=True)))
    path = list(sys.path)
    model = mlflow.pyfunc.load_model("models:/tiny@champion")
    sys.path[:] = path  # MLflow puts the model's code first
    image = np.zeros((1, 28, 28), np.float32)
    assert model.predict(image, params={"samples": 2}).shape == (1, 2, 28, 28)
    assert model.predict(image).shape == (1, 1, 28, 28)
    for given, params, said in (
        (image, {"temperature": 0.5}, "the parameters seed, samples, not temperature"),
        (
            image,
            {"samples": 100_000},
            "1 to 10,000 images in one call, not 1 context images x 100000 samples; ask",
        ),
        (
            np.zeros((6, 28, 28), np.float32),
            {"samples": 2000},
            "not 6 context images x 2000 samples; ask for fewer",
        ),
        (image, {"samples": 0}, "1 to 10,000 images"),
        (image, {"seed": -1}, "a seed from 0, not -1"),
        (image + 2, None, r"values in \[0, 1\], not 2"),
        (image[:, :14], None, "28"),
    ):
        with pytest.raises(MlflowException, match=said) as caught:
            model.predict(given, params=params)
        assert caught.value.get_http_status_code() == 400
