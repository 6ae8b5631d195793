"""What each request asks of the model: a checked request becomes a task, and what the task returns an answer.

All is checked here, before anything waits: BadInput names the field, the value and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqgen.core.errors import BadInput, NumericalError
from seqgen.evaluation.interpolation import spherical
from seqgen.models import Trace
from seqgen.serving.http import tasks
from seqgen.serving.http.images import read_image, read_images, read_mask, write_images
from seqgen.serving.http.limits import Limits
from seqgen.serving.http.schemas import (
    ExemplarsRequest,
    ImputeRequest,
    NllRequest,
    SamplesRequest,
    TraceRequest,
    WalkRequest,
)
from seqgen.serving.http.served import Served


class Work(NamedTuple):
    """A task for the model's thread, and what makes the answer's content of what it returns."""

    task: tasks.Task
    answer: Callable[[Any], dict[str, Any]]


def exemplars(served: Served, request: ExemplarsRequest, limits: Limits) -> Work:
    """POST /v1/exemplars."""
    if not served.conditional:
        raise BadInput(
            "context: this model is unconditional and draws no exemplars; ask /v1/samples without one"
        )
    return _drawings(served, request, request.context, limits)


def samples(served: Served, request: SamplesRequest, limits: Limits) -> Work:
    """POST /v1/samples."""
    if served.conditional:
        raise BadInput("context: this model draws given a context image; ask /v1/exemplars with one")
    return _drawings(served, request, None, limits)


def _drawings(served: Served, request: Any, context: Any, limits: Limits) -> Work:
    limits.check("samples", request.samples, "samples")
    shown = _context(served, context, limits)
    noise = served.noise(request.samples, request.seed, request.temperature)

    def answer(images: Tensor) -> dict[str, Any]:
        return {
            "images": write_images(images.cpu().numpy(), request.format),
            "seed": request.seed,
            "temperature": request.temperature,
            "model": served.title,
        }

    return Work(tasks.drawings(noise, shown), answer)


def walk(served: Served, request: WalkRequest, limits: Limits) -> Work:
    """POST /v1/walk: each end is the one drawing that its seed gives."""
    limits.check("frames", request.frames, "samples")
    if not served.gaussian:
        raise BadInput(
            "/v1/walk: not all of this model's noise is Gaussian, there is no way between two; draw samples"
        )
    shown = _context(served, request.context, limits)
    first, last = (
        served.noise(1, seed, request.temperature) for seed in (request.seed_from, request.seed_to)
    )
    shares = torch.linspace(0, 1, request.frames).tolist()
    noise = torch.cat([spherical(first, last, share) for share in shares], 1)

    def answer(images: Tensor) -> dict[str, Any]:
        pictures = write_images(images.cpu().numpy(), request.format)
        return {"images": pictures, "temperature": request.temperature, "model": served.title}

    return Work(tasks.drawings(noise, shown), answer)


def trace(served: Served, request: TraceRequest, limits: Limits) -> Work:
    """POST /v1/trace."""
    limits.check("samples", request.samples, "samples")
    x = None if request.x is None else _observed(served, "x", request.x, limits)
    if x is not None and request.samples != 1:
        raise BadInput(f"samples={request.samples}: with x it is one trace an image; leave samples out")
    if x is not None and request.temperature != 1:
        raise BadInput(
            f"temperature={request.temperature:g}: with x the noise is the posterior's; leave it at 1"
        )
    count = request.samples if x is None else len(x)
    steps = served.module.config.steps
    if count * steps > limits.traced:
        asked = f"samples={count}:" if x is None else f"x: {count} images,"
        raise BadInput(
            f"{asked} {count * steps} images at {steps} steps; an answer has up to {limits.traced}, "
            f"ask for {limits.traced // steps}"
        )
    noise = served.noise(count, request.seed, request.temperature)

    def answer(drawn: Trace) -> dict[str, Any]:
        return {
            "steps": write_images(drawn.canvas.squeeze(2).cpu().numpy(), request.format),
            "read": _windows(drawn.read),
            "write": _windows(drawn.write),
            "context_read": _windows(drawn.context_read),
            "kl": None if drawn.kl is None else drawn.kl.tolist(),
            "model": served.title,
        }

    return Work(tasks.traces(noise, x, _context(served, request.context, limits)), answer)


def nll(served: Served, request: NllRequest, limits: Limits) -> Work:
    """POST /v1/nll."""
    limits.check("num_samples", request.num_samples, "num_samples")
    x, shown = _observed(served, "x", request.x, limits), _context(served, request.context, limits)

    def answer(values: Tensor) -> dict[str, Any]:
        if not values.isfinite().all():
            raise NumericalError(
                "the likelihood of an image is no number; serve another version, or train again"
            )
        return {"nll": values.tolist(), "model": served.title}

    return Work(tasks.likelihoods(served.module, x, shown, request.num_samples, request.seed), answer)


def impute(served: Served, request: ImputeRequest, limits: Limits) -> Work:
    """POST /v1/impute."""
    if not served.imputation:
        raise BadInput("/v1/impute: this model's pixels are not independent given z; none can be left out")
    limits.check("steps", request.steps, "chain_steps")
    limits.check("samples", request.samples, "samples")
    shown = _context(served, request.context, limits)
    missing = served.tensor(read_mask("missing", request.missing, served.shape))
    given = served.tensor(read_image("x", request.x, served.shape))
    if served.binary:
        _check_binary("x", given[~missing])
    start = torch.where(missing, served.module.sizes.mean, given).expand(request.samples, 1, *served.shape)

    def answer(filled: tuple[Tensor, Tensor]) -> dict[str, Any]:
        states, means = filled
        return {
            "images": write_images(states.cpu().numpy(), request.format),
            "mean": write_images(means.mean(0).cpu().numpy(), request.format),
            "model": served.title,
        }

    return Work(tasks.fillings(served.module, start, missing, shown, request.steps, request.seed), answer)


def _context(served: Served, given: Any, limits: Limits) -> Tensor | None:
    """The context of a conditional model, [1,N,H,W]; None for an unconditional one, which takes none."""
    if not served.conditional:
        if given is not None:
            raise BadInput("context: this model is unconditional; leave it out")
        return None
    if given is None:
        raise BadInput("context: missing, and this model draws given a context image; give one")
    return served.tensor(read_images("context", given, served.shape, limits.images))[None]


def _observed(served: Served, field: str, given: Any, limits: Limits) -> Tensor:
    """Images whose likelihood matters, [n,1,H,W]."""
    found = served.tensor(read_images(field, given, served.shape, limits.images)).unsqueeze(1)
    if served.binary:
        _check_binary(field, found)
    return found


def _check_binary(field: str, found: Tensor) -> None:
    grey = found[(found != 0) & (found != 1)]
    if len(grey):
        raise BadInput(
            f"{field}: {grey[0].item():g} among its values, and the model's pixels are 0 or 1; send black and white"
        )


def _windows(corners: Tensor | None) -> list[Any] | None:
    """[T,B,J,4,2] in pixels, to a thousandth."""
    return None if corners is None else corners.double().round(decimals=3).tolist()
