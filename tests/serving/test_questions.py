"""What the API answers: the numbers of `seqgen.Model`, as arrays and as PNG; what it refuses, and how."""

from __future__ import annotations

import base64
import inspect
import math
import re
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.types import ASGIApp

from pipelines.serve import serve
from seqgen.api import Model
from seqgen.core.errors import BadInput
from seqgen.serving.http.app import make_app
from seqgen.serving.http.limits import Limits
from seqgen.serving.http.refusals import STATUSES, UNREADABLE
from seqgen.serving.http.served import Served
from seqgen.serving.http.service import Service
from tests.asgi import ask
from tests.served_models import as_png, binary_images, from_png, served

X = binary_images(4)
ROWS = X.tolist()
MASK = np.zeros(X.shape[1:], int)
MASK[:4] = 1
LIMITS = Limits(samples=40, images=5, traced=60, num_samples=300, chain_steps=50)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    place = tmp_path_factory.mktemp("models")
    kinds: dict[str, dict[str, Any]] = {
        "unconditional": {},
        "conditional": {"conditional": True},
        "bits": {"latent": "bernoulli"},
        "dependent": {"observation": "local-autoregressive"},
    }
    return {kind: served(place / kind, **settings) for kind, settings in kinds.items()}


@pytest.fixture(scope="module")
def apps(models: dict[str, Served]) -> dict[str, ASGIApp]:
    return {kind: make_app(Service(LIMITS, served=model)) for kind, model in models.items()}


def sampled(model: Model, *arguments: Any, **named: Any) -> torch.Tensor:
    """What it samples in a thread of its own: this one may have been given another number of PyTorch's threads."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(model.sample, *arguments, **named).result()


def numbers(answer: Any) -> torch.Tensor:
    return torch.tensor(answer, dtype=torch.float32)


def test_samples_are_those_of_the_model_and_its_seed(apps: dict[str, ASGIApp], models: dict[str, Served]):
    ours = Model(models["unconditional"].module)
    answer = ask(apps["unconditional"], "/v1/samples", {"samples": 7, "seed": 5, "format": "array"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert (answer.json["seed"], answer.json["temperature"]) == (5, 1.0)
    assert answer.json["model"] == "unconditional"
    assert torch.equal(numbers(answer.json["images"]), sampled(ours, 7, seed=5))


def test_a_png_is_the_array_dark_on_white(apps: dict[str, ASGIApp]):
    asked = {"samples": 2, "seed": 1}
    arrays = ask(apps["unconditional"], "/v1/samples", {**asked, "format": "array"}).json["images"]
    pictures = ask(apps["unconditional"], "/v1/samples", asked).json["images"]
    for array, picture in zip(arrays, pictures, strict=True):
        np.testing.assert_allclose(from_png(picture), array, atol=0.5 / 255 + 1e-6)


def test_exemplars_are_given_one_drawing_or_several_in_either_form(
    apps: dict[str, ASGIApp], models: dict[str, Served]
):
    ours, app = Model(models["conditional"].module), apps["conditional"]

    def drawn(context: Any) -> torch.Tensor:
        asked = {"context": context, "samples": 3, "seed": 2, "format": "array"}
        return numbers(ask(app, "/v1/exemplars", asked).json["images"])

    assert torch.equal(drawn(ROWS[0]), sampled(ours, 3, context=X[0], seed=2))
    assert torch.equal(drawn(ROWS[:2]), sampled(ours, 3, context=X[:2], seed=2))
    for mode in ("L", "1", "P", "RGB", "RGBA", "LA"):
        assert torch.equal(drawn(as_png(X[0], mode)), drawn(ROWS[0])), mode
    assert torch.equal(drawn([as_png(X[0]), ROWS[1]]), drawn(ROWS[:2]))
    assert not torch.equal(drawn(ROWS[0]), drawn(ROWS[1]))


def test_more_images_than_go_at_once_are_drawn_in_parts(tmp_path: Path, models: dict[str, Served]):
    model = models["unconditional"]
    app = make_app(Service(Limits(samples=300), served=model))
    answer = ask(app, "/v1/samples", {"samples": 300, "format": "array"})
    expected = Model(model.module).sample(300)
    torch.testing.assert_close(numbers(answer.json["images"]), expected, atol=1e-6, rtol=0)


def test_temperature_scales_the_noise(apps: dict[str, ASGIApp]):
    def drawn(temperature: float) -> np.ndarray:
        asked = {"samples": 4, "temperature": temperature, "format": "array"}
        return np.array(ask(apps["unconditional"], "/v1/samples", asked).json["images"])

    assert np.ptp(drawn(0.0), axis=0).max() < 1e-6  # no noise, one drawing
    assert 0 < drawn(0.5).std(0).mean() < drawn(1.0).std(0).mean()
    refused = ask(apps["bits"], "/v1/samples", {"temperature": 0.5})
    assert refused.status == 422
    assert refused.error.startswith(
        "temperature=0.5: not all of this model's noise is Gaussian; leave it at 1"
    )


def test_a_walk_goes_from_one_seed_to_the_other(apps: dict[str, ASGIApp], models: dict[str, Served]):
    ours = Model(models["unconditional"].module)
    asked = {"seed_from": 3, "seed_to": 4, "frames": 5, "format": "array"}
    frames = numbers(ask(apps["unconditional"], "/v1/walk", asked).json["images"])
    torch.testing.assert_close(frames[0], ours.sample(seed=3)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(frames[-1], ours.sample(seed=4)[0], atol=1e-5, rtol=0)
    steps = (frames[1:] - frames[:-1]).abs().sum((1, 2))
    assert (steps < (frames[-1] - frames[0]).abs().sum()).all()
    assert "no way between two" in ask(apps["bits"], "/v1/walk", asked).error


@pytest.mark.parametrize("kind", ["conditional", "unconditional"])
def test_a_trace_is_the_models(apps: dict[str, ASGIApp], models: dict[str, Served], kind: str):
    ours = Model(models[kind].module)
    given = {"context": ROWS[3]} if kind == "conditional" else {}
    shown = {"context": X[3]} if kind == "conditional" else {}
    answer = ask(apps[kind], "/v1/trace", {"x": ROWS[:2], **given, "seed": 1, "format": "array"}).json
    expected = ours.trace(X[:2], **shown, seed=1)
    torch.testing.assert_close(numbers(answer["steps"]), expected.canvas.squeeze(2))
    torch.testing.assert_close(numbers(answer["kl"]), expected.kl)
    for window in ("read", "write", "context_read"):
        corners = getattr(expected, window)
        if corners is None:
            assert answer[window] is None
        else:
            torch.testing.assert_close(numbers(answer[window]), corners, atol=1e-3, rtol=0)
    prior = ask(apps[kind], "/v1/trace", {"samples": 3, **given}).json
    assert prior["kl"] is None
    assert prior["read"] is None
    assert [len(step) for step in prior["steps"]] == [3, 3, 3]
    assert np.array(prior["write"]).shape == (3, 3, 1, 4, 2)
    end = ask(apps[kind], "/v1/exemplars" if given else "/v1/samples", {"samples": 3, **given}).json["images"]
    last, drawn = (np.stack([from_png(image) for image in each]) for each in (prior["steps"][-1], end))
    np.testing.assert_allclose(last, drawn, atol=1.01 / 255)


def test_likelihoods_are_those_of_the_model(apps: dict[str, ASGIApp], models: dict[str, Served]):
    ours = Model(models["unconditional"].module)
    answer = ask(apps["unconditional"], "/v1/nll", {"x": ROWS, "num_samples": 200, "seed": 3})
    assert answer.json["nll"] == ours.nll(X, 200, seed=3).tolist()
    ours = Model(models["conditional"].module)
    answer = ask(
        apps["conditional"], "/v1/nll", {"x": [as_png(X[0])], "context": ROWS[1:3], "num_samples": 5}
    )
    assert answer.json["nll"] == ours.nll(X[:1], 5, context=X[None, 1:3]).tolist()


def test_missing_pixels_are_filled_and_seen_ones_kept(apps: dict[str, ASGIApp], models: dict[str, Served]):
    ours = Model(models["unconditional"].module)
    asked = {"x": ROWS[0], "missing": MASK.tolist(), "steps": 20, "seed": 4, "format": "array"}
    answer = ask(apps["unconditional"], "/v1/impute", asked).json
    sample, mean = ours.impute(X[0], MASK, steps=20, seed=4)
    torch.testing.assert_close(numbers(answer["images"]), sample)
    torch.testing.assert_close(numbers(answer["mean"]), mean[0])
    several = ask(apps["unconditional"], "/v1/impute", {**asked, "missing": as_png(MASK), "samples": 6}).json
    images = np.array(several["images"])
    assert images.shape == (6, *X.shape[1:])
    assert (images[:, 4:] == X[0, 4:]).all()
    assert np.ptp(images[:, :4], axis=0).any()
    grey = X[0] * 1.0
    grey[0, 0] = 0.5  # is not looked at
    again = ask(apps["unconditional"], "/v1/impute", {**asked, "x": grey.tolist()})
    assert again.json == answer


def test_what_is_served_says_what_can_be_asked(apps: dict[str, ASGIApp], models: dict[str, Served]):
    told = {kind: ask(app, "/v1/model").json for kind, app in apps.items()}
    assert {kind: each["imputation"] for kind, each in told.items()} == {
        "unconditional": True,
        "conditional": True,
        "bits": True,
        "dependent": False,
    }
    assert {kind for kind, each in told.items() if not each["gaussian"]} == {"bits"}
    conditional = told["conditional"]
    assert conditional["conditional"] is conditional["attention"] is conditional["binary"] is True
    assert (conditional["height"], conditional["width"], conditional["steps"]) == (8, 6, 3)
    assert (conditional["name"], conditional["version"]) == ("conditional", None)
    assert conditional["limits"] == asdict(LIMITS)
    weights = models["conditional"].module.state_dict().values()
    assert conditional["parameters"] == sum(each.numel() for each in weights)
    assert ask(apps["conditional"], "/healthz").json == {"status": "ok", "model": "conditional"}


REFUSED = [
    ("/v1/samples", {"samples": 0}, "samples=0: from 1 to 40"),
    ("/v1/samples", {"samples": 100_000}, "samples=100000: from 1 to 40"),
    ("/v1/samples", {"samples": "3"}, "samples='3': input should be a valid integer"),
    ("/v1/samples", {"samples": 2.5}, "samples=2.5: "),
    ("/v1/samples", {"seed": -1}, "seed=-1: input should be greater than or equal to 0"),
    ("/v1/samples", {"temperature": 2.5}, "temperature=2.5: input should be less than or equal to 2"),
    ("/v1/samples", {"format": "gif"}, "format='gif': input should be 'png' or 'array'"),
    ("/v1/samples", {"sample": 3}, "sample: no such field; leave it out"),
    ("/v1/samples", b"{", "body: not JSON"),
    ("/v1/samples", b"", "body: empty; send JSON"),
    ("/v1/samples", [1], "body: "),
    ("/v1/samples", b'{"temperature": NaN}', "temperature=nan: input should be a finite number"),
    ("/v1/exemplars", {"context": ROWS[0]}, "context: this model is unconditional and draws no exemplars"),
    ("/v1/exemplars", {}, "context: missing"),
    ("/v1/nll", {"x": ROWS, "context": ROWS[0]}, "context: this model is unconditional; leave it out"),
    ("/v1/nll", {"x": ROWS + ROWS}, "x: 8 images; give 1 to 5"),
    ("/v1/nll", {"x": []}, "x: 0 images"),
    ("/v1/nll", {"x": X[:, :5].tolist()}, "x[0]: shape [5, 6]; the model takes [8, 6]"),
    ("/v1/nll", {"x": (0.5 * X).tolist()}, "x: 0.5 among its values, and the model's pixels are 0 or 1"),
    ("/v1/nll", {"x": (3 * X[0]).tolist()}, "x: 3 among its values; they are in [0, 1]"),
    ("/v1/nll", b'{"x": [[NaN]]}', "x: shape [1, 1]"),
    ("/v1/nll", {"x": "image"}, "x: no rows of numbers"),
    ("/v1/nll", {"x": [[1, 2], [3]]}, "x: no rows of numbers"),
    ("/v1/nll", {"x": [["1", "0"]]}, "x: no rows of numbers"),
    ("/v1/nll", {"x": [[1, "0"]]}, "x: no rows of numbers"),
    ("/v1/nll", {"x": [[1, None]]}, "x: no rows of numbers"),
    ("/v1/nll", {"x": [[[1, 2], [3]], [[1], [2]]]}, "x[0]: no rows of numbers"),
    ("/v1/nll", {"x": [[10**400]]}, "x: no rows of numbers"),
    ("/v1/nll", {"x": None}, "x: no rows of numbers"),
    ("/v1/nll", {"x": {"jpeg": ""}}, 'x: an image is {"png": "<base64>"}'),
    ("/v1/nll", {"x": {"png": "###"}}, "x.png: not base64"),
    ("/v1/nll", {"x": {"png": "AAAA"}}, "x.png: not a whole image (no PNG); send the file's bytes in base64"),
    ("/v1/nll", {"x": {"png": as_png(X[0])["png"][:80]}}, "x.png: not a whole image ("),
    ("/v1/nll", {"x": as_png(X[0].T)}, "x.png: 6x8 pixels; the model takes 8x6 (height x width)"),
    ("/v1/nll", {"x": [ROWS[0], as_png(X[0], "I;16")]}, "x[1].png: mode I;16"),
    ("/v1/nll", {"x": ROWS, "num_samples": 301}, "num_samples=301: from 1 to 300"),
    ("/v1/trace", {"x": ROWS, "samples": 4}, "samples=4: with x it is one trace an image"),
    (
        "/v1/trace",
        {"x": ROWS, "temperature": 0.5},
        "temperature=0.5: with x the noise is the posterior's; leave it at 1",
    ),
    ("/v1/trace", {"samples": 30}, "samples=30: 90 images at 3 steps; an answer has up to 60, ask for 20"),
    ("/v1/walk", {"seed_from": 1, "seed_to": 2, "frames": 41}, "frames=41: from 1 to 40"),
    ("/v1/walk", {"seed_from": 1}, "seed_to: missing"),
    ("/v1/impute", {"x": ROWS[0]}, "missing: missing"),
    (
        "/v1/impute",
        {"x": ROWS[0], "missing": (0.5 * X[0]).tolist(), "steps": 5},
        "missing: values between 0 and 1",
    ),
    ("/v1/impute", {"x": ROWS[0], "missing": ROWS[1], "steps": 51}, "steps=51: from 1 to 50"),
]


@pytest.mark.parametrize(("path", "question", "why"), REFUSED, ids=[why for _, _, why in REFUSED])
def test_what_does_not_fit_is_refused(apps: dict[str, ASGIApp], path: str, question: Any, why: str):
    answer = ask(apps["unconditional"], path, question)
    assert answer.status == 422
    assert answer.error.startswith(why)


def test_a_png_with_any_bit_wrong_is_an_image_or_refused(apps: dict[str, ASGIApp]):
    content = base64.b64decode(as_png(X[0])["png"])
    end = content.index(b"IEND") - 4
    profile = struct.pack(">I4sI", 0, b"iCCP", zlib.crc32(b"iCCP"))  # an empty one, after the pixels
    files = [content[:end] + profile + content[end:]]
    for place in range(len(content)):
        for bit in range(8):
            wrong = bytearray(content)
            wrong[place] ^= 1 << bit
            files.append(bytes(wrong))
    questions = [{"x": {"png": base64.b64encode(each).decode()}, "num_samples": 1} for each in files]
    answers = [ask(apps["unconditional"], "/v1/nll", question) for question in questions]
    assert {answer.status for answer in answers} == {200, 422}
    refused = [answer.error for answer in answers if answer.status == 422]
    assert all(line.startswith("x") and " at 0x" not in line for line in refused)


def test_a_trace_of_too_many_images_is_refused_by_the_field_that_has_them(models: dict[str, Served]):
    app = make_app(Service(replace(LIMITS, traced=10), served=models["unconditional"]))
    answer = ask(app, "/v1/trace", {"x": ROWS})
    assert answer.error == "x: 4 images, 12 images at 3 steps; an answer has up to 10, ask for 3"


def test_a_long_text_among_numbers_takes_no_more_than_itself(apps: dict[str, ASGIApp]):
    question = {"x": [["1" * 2000, *[1] * 5000]]}
    tracemalloc.start()
    answer = ask(apps["unconditional"], "/v1/nll", question)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.error.startswith("x: no rows of numbers")
    assert most < 10_000_000  # bytes; 5001 texts of 2000 characters are 40 million


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}", b'"\xff"'])
def test_what_python_cannot_read_is_no_failure_of_the_server(apps: dict[str, ASGIApp], body: bytes):
    answer = ask(apps["unconditional"], "/v1/samples", body)
    assert answer.status == 400
    assert answer.error.startswith("body: cannot be read (")


def test_what_a_model_cannot_do_is_refused(apps: dict[str, ASGIApp]):
    for kind, path, question, why in (
        (
            "conditional",
            "/v1/samples",
            {},
            "context: this model draws given a context image; ask /v1/exemplars",
        ),
        ("conditional", "/v1/trace", {}, "context: missing, and this model draws given a context image"),
        ("conditional", "/v1/exemplars", {"context": ROWS + ROWS}, "context: 8 images; give 1 to 5"),
        (
            "dependent",
            "/v1/impute",
            {"x": ROWS[0], "missing": ROWS[1]},
            "/v1/impute: this model's pixels are not",
        ),
    ):
        answer = ask(apps[kind], path, question)
        assert answer.status == 422
        assert answer.error.startswith(why)


def test_other_paths_and_methods_say_where_to_look(apps: dict[str, ASGIApp]):
    for path, question, status in (
        ("/v2/samples", {}, 404),
        ("/v1/samples", None, 405),
        ("/v1/samples/", {}, 404),  # and is not sent to an address that a proxy may not have
    ):
        answer = ask(apps["unconditional"], path, question)
        assert answer.status == status
        assert "GET /docs lists what can be asked" in answer.error


def test_every_question_says_what_it_can_be_refused_with(apps: dict[str, ASGIApp]):
    said = ask(apps["unconditional"], "/openapi.json").json
    for path, methods in said["paths"].items():
        for method, operation in methods.items():
            refusals = {
                int(status): answer for status, answer in operation["responses"].items() if status != "200"
            }
            assert {403, 500} <= set(refusals), path
            if method == "post":
                assert set(refusals) == set(STATUSES) - {404, 405}, path
            for status, answer in refusals.items():
                assert answer["description"] == STATUSES[status]
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Refused"}
    assert list(said["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    page = ask(apps["unconditional"], "/docs").content.decode()
    for status in STATUSES:
        assert str(status) in page
    assert "404: a path that there is not" in said["info"]["description"]


def test_the_docs_have_every_refusal():
    text = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    table = text.partition("## What is refused")[2].partition("\n## ")[0]
    assert [int(status) for status in re.findall(r"^\| (\d{3})", table, re.M)] == list(STATUSES)
    assert UNREADABLE in table


def test_the_docs_have_the_limits_of_the_verb():
    text = (Path(__file__).parents[2] / "docs/serving.md").read_text()
    table = text.partition("## What is refused")[2].partition("\n## ")[0]
    told = {
        (name, float(value.replace(",", "")))
        for name, value in re.findall(r"`(--max-\w+)` \(([\d,]+)", table)
    }
    options = inspect.signature(serve).parameters.values()
    assert told == {
        (f"--{option.name.replace('_', '-')}", option.default)
        for option in options
        if option.name[:4] == "max_"
    }
    assert (
        f"A trace has up to {Limits.traced:,} images (steps x samples), a likelihood up to {Limits.num_samples:,} "
        f"samples an image, an imputation up to {Limits.chain_steps:,} steps."
    ) in table


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seconds", math.inf),
        ("seconds", math.nan),
        ("seconds", -1),
        ("queue", 0),
        ("samples", 0),
        ("traced", -5),
    ],
)
def test_a_limit_that_nothing_is_within_is_refused_by_its_name(field: str, value: float):
    with pytest.raises(BadInput, match=f"^{field}={value}: not a limit; give a finite number from "):
        Limits(**{field: value})


def test_without_a_model_the_server_says_so():
    app = make_app(Service(LIMITS))
    for path, question in (
        ("/healthz", None),
        ("/v1/model", None),
        ("/v1/samples", {}),
        ("/v1/held-out", None),
    ):
        answer = ask(app, path, question)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"
        assert answer.error == "no model is loaded yet; ask again in a few seconds"


def test_the_page_of_questions_lists_every_one_and_needs_no_other_host(apps: dict[str, ASGIApp]):
    page = ask(apps["unconditional"], "/docs")
    assert page.headers["content-type"].startswith("text/html")
    text = page.content.decode()
    for path in ask(apps["unconditional"], "/openapi.json").json["paths"]:
        assert path in text
    for field in ("num_samples", "seed_from", "context_read", "multiplies the prior&#39;s noise"):
        assert field in text
    assert "://" not in text
    assert "<script" not in text
    assert "/docs.css" not in text  # relative, so that a proxy may have a path before it
    assert '"/openapi.json' not in text
    assert ask(apps["unconditional"], "/docs.css").headers["content-type"].startswith("text/css")
