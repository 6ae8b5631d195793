"""A linear map, and how its weights are treated while they are used again and again over the steps of a run.

Inside `Repeated` a weight is converted to autocast's precision once for all steps, and its gradient is gathered over
the steps and added up in place, where autograd would make T gradients and add them. The products are torch's: our own,
with the weights packed once for all steps, were at most 7 % of a step faster (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from seqgen.ops.operation import operation
from seqgen.ops.precision import full_precision

# Rows of inputs that are gathered before they are multiplied: a long sum is read and written less often, and in half
# precision rounded less often.
_ROWS = 1000

_this_thread = threading.local()  # .run: the run that this thread is inside


@operation
def linear(inputs: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """y = W [inputs] + b: `inputs` [B,I_1], [B,I_2], ... stand side by side, `weight` [O,I], `bias` [O] -> [B,O].

    Under autocast the product alone is in half precision.
    """
    return full_precision(functional.linear(_side_by_side(inputs), weight, bias))


def _side_by_side(inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0] if len(inputs) == 1 else torch.cat(tuple(inputs), 1)


def inside_a_run(*_: object, **__: object) -> bool:
    """Whether this thread is inside `Repeated`."""
    return getattr(_this_thread, "run", None) is not None


@linear.fused(fits=inside_a_run, anywhere=True)
def _fused(inputs: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    used = used_again(weight, bias)
    return _Product.apply(used, used.weight, used.bias, *inputs)


class Repeated:
    """A run over many steps. The same object serves steps that activation checkpointing runs again."""

    def __init__(self) -> None:
        self.weights: dict[tuple[Tensor, Tensor], RepeatedWeight] = {}

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Steps of the run, in the thread that enters."""
        outer = getattr(_this_thread, "run", None)
        _this_thread.run = self
        try:
            yield
        finally:
            _this_thread.run = outer


def used_again(weight: Tensor, bias: Tensor) -> RepeatedWeight:
    """What the run that this thread is inside knows of a layer's weights."""
    weights: dict[tuple[Tensor, Tensor], RepeatedWeight] = _this_thread.run.weights
    used = weights.get((weight, bias))
    if used is None:
        used = weights[weight, bias] = RepeatedWeight(weight, bias)
    return used


class RepeatedWeight:
    """A layer's weights in a run, in its products' precision, and where their gradient gathers.

    `multiply` and `backward` are for the inside of autograd's functions, which take `weight` and `bias` as inputs.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        kind, dtype = weight.device.type, weight.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        self._gradient = _GatheredGradient(weight.dtype)
        self.weight, self.bias = _Begin.apply(weight, bias, self._gradient, dtype)

    def multiply(self, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """W [inputs] + b, [B,O], and what `backward` wants kept."""
        x = _side_by_side(inputs).to(self.weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            # The weight is kept, so that autograd sees if it is changed before the backward pass.
            return full_precision(functional.linear(x, self.weight, self.bias)), (x, self.weight)

    def backward(
        self, kept: Sequence[Tensor], widths: Sequence[int], grad: Tensor, needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """Gather the gradients of W and b; return those of the inputs, of `widths`, if any is `needed`."""
        x, weight = kept
        grad = grad.to(weight.dtype).contiguous()
        self._gradient.add(x, grad)
        if not any(needed):
            return [None] * len(needed)
        return full_precision(grad @ weight).split(list(widths), 1)


class _GatheredGradient:
    """The gradients of W and b in y = x W^T + b, summed over the steps of a run."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._steps: list[tuple[Tensor, Tensor]] = []
        self._backward = -1  # the backward pass that gathers

    def add(self, x: Tensor, grad: Tensor) -> None:
        """The next step's inputs [B,I] and the gradient of its outputs [B,O]."""
        self._only_this_backward()
        self._steps.append((x, grad))
        if sum(len(x) for x, _ in self._steps) >= _ROWS:
            self._multiply()

    def take(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradients so far, [O,I] and [O], None if there was no step; begins anew."""
        self._only_this_backward()
        if self._steps:
            self._multiply()
        weight, bias = self._weight, self._bias
        self._weight = self._bias = None
        return weight, bias

    def _only_this_backward(self) -> None:
        """Drop what a pass left that did not ask for the weights' gradient, or failed half-way."""
        running = torch._C._current_graph_task_id()
        if running != self._backward:
            self._backward, self._weight, self._bias, self._steps = running, None, None, []

    def _multiply(self) -> None:
        x, grad = (
            parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*self._steps, strict=True)
        )
        self._steps = []
        bias = grad.sum(0, dtype=self._dtype)
        if self._weight is None or self._bias is None:
            self._weight, self._bias = (grad.mT @ x).to(self._dtype), bias
            return
        self._bias += bias
        if x.dtype == self._dtype:
            self._weight.addmm_(grad.mT, x)
        else:
            self._weight += (grad.mT @ x).to(self._dtype)


class _Begin(Function):
    """Hands out the weights of a run. Its backward follows that of every step and returns what they gathered."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, gradient: _GatheredGradient, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        ctx.gradient = gradient
        ctx.set_materialize_grads(False)
        return weight.view_as(weight).to(dtype), bias.view_as(bias).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        return *ctx.gradient.take(), None, None


class _Product(Function):
    """x W^T + b; the gradients of W and b are gathered."""

    @staticmethod
    def forward(ctx: Any, used: RepeatedWeight, weight: Tensor, bias: Tensor, *inputs: Tensor) -> Tensor:
        y, kept = used.multiply(inputs)
        ctx.used, ctx.widths = used, [part.shape[1] for part in inputs]
        ctx.save_for_backward(*kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, _, _, *inputs = ctx.needs_input_grad
        return None, None, None, *ctx.used.backward(ctx.saved_tensors, ctx.widths, grad, inputs)
