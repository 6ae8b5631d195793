"""What registering the operations with torch.library would cost a training step: `python -m benchmarks.dispatch`.

One kernel, forward and backward, is called as an autograd function, as seqgen.ops does it, and as an operator of
torch.library with a fake version and a registered gradient: by `custom_op`, and by the lower `define` and `impl`. The
three take turns on an image so small that the call is all there is. What an operator takes more, times the calls of a
training step of DRAW (T = 10), is compared with that step. CPU time, one thread.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction, once_differentiable

from benchmarks import page
from benchmarks.measure import Action, in_turns
from benchmarks.specs import SPECIFICATIONS, Workload, workload
from benchmarks.throughput import Mode, training_step
from seqgen import native
from seqgen.core.errors import BadInput
from seqgen.native import call

STEP = "draw-10"
BATCH = 100
_CALLS = 200  # of one timing
_LIBRARY = torch.library.Library("seqgen_dispatch", "DEF")

Sample = Callable[[Tensor, Tensor, int, int], Tensor]


def sample(image: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
    """The kernel of ops.affine_sample."""
    out = image.new_empty(*image.shape[:2], height, width)
    call("affine_forward", *image.shape, height, width, 1, image, matrix, out)
    return out


def gradients(image: Tensor, matrix: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the image and the matrix."""
    grads = torch.empty_like(image), torch.empty_like(matrix)
    call("affine_backward", *image.shape, *grad.shape[2:], 1, image, matrix, grad.contiguous(), *grads)
    return grads


def _fake_sample(image: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
    return image.new_empty(*image.shape[:2], height, width)


def _fake_gradients(image: Tensor, matrix: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(image), torch.empty_like(matrix)


class _Sample(Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
        ctx.save_for_backward(image, matrix)
        return sample(image, matrix, height, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, matrix = ctx.saved_tensors
        return *gradients(image, matrix, grad), None, None


def by_custom_op() -> Sample:
    """As torch's manual has it."""
    forward = torch.library.custom_op("seqgen_dispatch::custom", sample, mutates_args=())
    forward.register_fake(_fake_sample)
    backward = torch.library.custom_op("seqgen_dispatch::custom_gradients", gradients, mutates_args=())
    backward.register_fake(_fake_gradients)
    forward.register_autograd(_backward_by(backward), setup_context=_keep)
    return forward


def by_define() -> Sample:
    """The same two operators, without what custom_op checks at every call."""
    for name, function, fake in (
        ("defined", sample, _fake_sample),
        ("defined_gradients", gradients, _fake_gradients),
    ):
        _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
        _LIBRARY.impl(name, function, "CPU")
        torch.library.register_fake(f"seqgen_dispatch::{name}", fake, lib=_LIBRARY)
    operators = torch.ops.seqgen_dispatch
    backward = _backward_by(operators.defined_gradients.default)
    torch.library.register_autograd("seqgen_dispatch::defined", backward, setup_context=_keep, lib=_LIBRARY)
    return operators.defined.default


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward_by(gradients: Any) -> Callable[..., tuple[Tensor | None, ...]]:
    return lambda ctx, grad: (*gradients(*ctx.saved_tensors, grad), None, None)


@functools.cache
def ways() -> dict[str, Sample]:
    """The same function, registered each way."""
    return {
        "autograd.Function": _Sample.apply,
        "torch.library, custom_op": by_custom_op(),
        "torch.library, define and impl": by_define(),
    }


def seconds_of_a_call(rounds: int) -> dict[str, float]:
    """Medians of one call, forward and backward, each way."""
    image = torch.randn(1, 1, 4, 4, requires_grad=True)
    matrix = torch.eye(3)[:2].reshape(1, 6).requires_grad_()

    def calling(way: Sample) -> Action:
        def calls() -> None:
            for _ in range(_CALLS):
                way(image, matrix, 4, 4).sum().backward()

        return calls

    seconds = in_turns({name: calling(way) for name, way in ways().items()}, rounds, torch.device("cpu"))
    return {name: statistics.median(values) / _CALLS for name, values in seconds.items()}


def calls_of(work: Workload) -> int:
    """How many autograd functions of ours a training step goes through."""
    found, left = set(), [work.model(work.x, work.context, work.noise).free_energy().grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [before for before, _ in node.next_functions]
    return sum(isinstance(node, BackwardCFunction) for node in found)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print. Raises BadInput where there are no kernels."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatch", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="timings of which the median is taken")
    options = parser.parse_args(arguments)
    if not native.loads():
        raise BadInput("there are no kernels to call; build them with `python -m seqgen.native`")
    mode = Mode("cpu", "float32", False, threads=1)
    device = mode.enter()
    work = workload(SPECIFICATIONS[STEP], BATCH, device)
    count = calls_of(work)
    steps = in_turns({"step": training_step(work, "seqgen", mode)}, options.rounds, device)["step"]
    step, seconds = statistics.median(steps), seconds_of_a_call(options.rounds)
    least = seconds["autograd.Function"]
    table = [
        [name, f"{1e6 * each:.1f}", f"{1e6 * (each - least):.1f}", f"{count * (each - least) / step:.1%}"]
        for name, each in seconds.items()
    ]
    print(page.table(["a call, forward and backward", "us", "more, us", "of a step"], table))
    print(f"\n{count} such calls in a step of {STEP}, batch {BATCH}, which takes {1e3 * step:.1f} ms")


if __name__ == "__main__":
    page.run(main)
