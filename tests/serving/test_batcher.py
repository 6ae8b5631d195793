"""Requests that wait go through the model together, and each gets its own numbers, error or end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seqgen.api import Model
from seqgen.core.errors import NumericalError
from seqgen.models import SequentialModel
from seqgen.serving.http import tasks
from seqgen.serving.http.app import make_app
from seqgen.serving.http.batcher import Batcher
from seqgen.serving.http.limits import Limits
from seqgen.serving.http.refusals import Unavailable
from seqgen.serving.http.served import Served
from seqgen.serving.http.service import Service
from tests.asgi import JSON, Answer, ask, asking, exchange
from tests.served_models import binary_images, served

X = binary_images(4)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served(tmp_path_factory.mktemp("models") / "conditional", conditional=True)


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served(tmp_path_factory.mktemp("models") / "unconditional")


class Gate:
    """A task that keeps the model's thread until it is opened, so that others wait."""

    def __init__(self) -> None:
        self.entered, self._open = threading.Event(), threading.Event()

    def task(self) -> tasks.Task:
        self.entered.set()
        self._open.wait(60)
        return "opened"
        yield

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def drawing(model: SequentialModel, count: int, seed: int) -> tasks.Task:
    return tasks.drawings(tasks.noise_of(model, count, seed), None)


def test_those_that_wait_are_one_pass_and_each_gets_its_own(unconditional: Served, gate: Gate):
    model, passes = unconditional.module, []
    batcher = Batcher(passes.append)
    batcher.submit(model, gate.task())
    gate.entered.wait(60)
    waiting = [batcher.submit(model, drawing(model, 2 + seed, seed)) for seed in range(4)]
    assert len(batcher) == 5
    gate.open()
    for seed, future in enumerate(waiting):
        alone = Model(model).sample(2 + seed, seed=seed)
        # a batch may be rounded otherwise in the last bits
        torch.testing.assert_close(future.result(60), alone, atol=1e-6, rtol=1e-5)
    assert passes == [2 + 3 + 4 + 5]


def test_a_pass_has_no_more_images_than_go_at_once_and_no_two_kinds(
    unconditional: Served, conditional: Served, gate: Gate
):
    model, passes = unconditional.module, []
    batcher = Batcher(passes.append)
    batcher.submit(model, gate.task())
    gate.entered.wait(60)
    large = [batcher.submit(model, drawing(model, 100, seed)) for seed in (0, 1)]
    traced = batcher.submit(model, tasks.traces(tasks.noise_of(model, 3, 0), None, None))
    other = conditional.module
    context = torch.zeros(1, 2, *conditional.shape)
    drawn = [
        batcher.submit(other, tasks.drawings(tasks.noise_of(other, 5, 0), shown))
        for shown in (context, context[:, :1], context)
    ]
    gate.open()
    assert [len(future.result(60)) for future in (*large, *drawn)] == [100, 100, 5, 5, 5]
    assert traced.result(60).canvas.shape == (3, 3, 1, *unconditional.shape)
    assert sorted(passes) == [3, 5, 10, 100, 100]


@pytest.mark.parametrize("kind", ["imputation", "likelihood"])
def test_a_long_one_does_not_keep_others_waiting(unconditional: Served, gate: Gate, kind: str):
    model, x = unconditional.module, torch.zeros(1, 1, *unconditional.shape)
    batcher = Batcher()
    batcher.submit(model, gate.task())
    gate.entered.wait(60)
    if kind == "imputation":
        missing = torch.ones(unconditional.shape, dtype=torch.bool)
        task = tasks.fillings(model, x, missing, None, 1_000_000, 0)
    else:  # of one image
        task = tasks.likelihoods(model, x, None, 1_000_000, 0)
    long = batcher.submit(model, task)
    short = batcher.submit(model, drawing(model, 1, 0))
    gate.open()
    assert len(short.result(60)) == 1
    assert not long.done()
    long.cancel()
    batcher.stop()  # comes back, since nobody waits for the long one


def test_an_error_is_that_of_its_own_request(unconditional: Served):
    model = unconditional.module

    def failing() -> tasks.Task:
        yield None
        raise NumericalError("not finite")

    def drawing_wrongly() -> tasks.Task:
        yield tasks.Pass("sample", torch.zeros(1, 1, 1), None, None)

    batcher = Batcher()
    first, second = batcher.submit(model, failing()), batcher.submit(model, drawing_wrongly())
    with pytest.raises(NumericalError):
        first.result(60)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        second.result(60)
    assert len(batcher.submit(model, drawing(model, 1, 0)).result(60)) == 1


def test_what_was_taken_is_finished_before_the_end(unconditional: Served, gate: Gate):
    model = unconditional.module
    batcher = Batcher()
    batcher.submit(model, gate.task())
    gate.entered.wait(60)
    waiting = batcher.submit(model, drawing(model, 3, 0))
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    gate.open()
    stopping.join(60)
    assert len(waiting.result(0)) == 3
    with pytest.raises(Unavailable, match="stopping"):
        batcher.submit(model, drawing(model, 1, 0))


def test_a_model_that_is_asked_no_more_is_kept_no_more(tmp_path: Path):
    model = served(tmp_path / "old").module
    kept, batcher = weakref.ref(model), Batcher()
    batcher.submit(model, drawing(model, 1, 0)).result(60)
    while len(batcher):
        time.sleep(0.01)
    del model
    gc.collect()
    assert kept() is None


def together(service: Service, gate: Gate, questions: list[tuple[str, Any]]) -> list[Answer]:
    """Ask all at once while the model's thread is kept, which is let go when all wait."""
    app = make_app(service)
    assert service.served is not None
    service.batcher.submit(service.served.module, gate.task())

    async def opened() -> None:
        while len(service.batcher) < 1 + min(len(questions), service.limits.queue):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # those that are one too many are refused meanwhile
        gate.open()

    async def asked() -> list[Answer]:
        return (await asyncio.gather(*(asking(app, *each) for each in questions), opened()))[:-1]

    return asyncio.run(asked())


def test_requests_at_once_are_one_pass_and_get_the_answers_of_requests_alone(conditional: Served, gate: Gate):
    service = Service(Limits(), served=conditional)
    questions = [
        ("/v1/exemplars", {"context": X[n % 4].tolist(), "samples": 3, "seed": n, "format": "array"})
        for n in range(8)
    ]
    answers = together(service, gate, questions)
    text = ask(make_app(service), "/metrics").content.decode()
    assert "\nseqgen_batch_images_count 1\n" in text
    assert "\nseqgen_batch_images_sum 24\n" in text
    for question, answer in zip(questions, answers, strict=True):
        alone = ask(make_app(Service(Limits(), served=conditional)), *question)
        torch.testing.assert_close(
            torch.tensor(answer.json["images"]), torch.tensor(alone.json["images"]), atol=1e-6, rtol=1e-5
        )


def test_over_the_queue_a_request_is_put_off(unconditional: Served, gate: Gate):
    service = Service(Limits(queue=3), served=unconditional)
    answers = together(service, gate, [("/v1/samples", {"samples": 1})] * 5)
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 429, 429]
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.error == "3 requests wait already; ask again in a second"


def test_over_the_seconds_a_request_is_given_up(unconditional: Served, gate: Gate):
    service = Service(Limits(seconds=0.2), served=unconditional)
    app = make_app(service)
    service.batcher.submit(unconditional.module, gate.task())
    answer = ask(app, "/v1/samples", {"samples": 1})
    assert answer.status == 504
    assert answer.error == "not done in 0.2 s, which is what one request may take; ask for less at once"


def test_for_a_client_that_hung_up_nothing_is_worked_out(unconditional: Served, gate: Gate):
    service = Service(Limits(), served=unconditional)
    app = make_app(service)
    service.batcher.submit(unconditional.module, gate.task())

    async def hanging_up() -> Answer | None:
        hangs_up = asyncio.Event()
        body = [b'{"samples": 3}']
        asked = asyncio.ensure_future(
            exchange(app, "POST", "/v1/samples", body, {**JSON, "ends": "yes"}, hangs_up)
        )
        while len(service.batcher) < 2:
            await asyncio.sleep(0.01)
        hangs_up.set()
        return await asked

    assert asyncio.run(hanging_up()) is None
    gate.open()
    service.batcher.stop()
    text = ask(app, "/metrics").content.decode()
    assert "\nseqgen_batch_images_count 0\n" in text
    assert 'seqgen_requests_total{path="/v1/samples",status="499"} 1\n' in text


def test_what_fails_inside_is_no_stack_trace(tmp_path: Path):
    broken = served(tmp_path / "broken")
    with torch.no_grad():
        next(broken.module.parameters()).fill_(torch.nan)
    answer = ask(make_app(Service(Limits(), served=broken)), "/v1/samples", {})
    assert answer.status == 500
    assert answer.error == "the model drew what is no number; serve another version, or train again"
