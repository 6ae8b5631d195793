"""A linear map that is applied once a step: its weights are laid out once for all steps of a run, and their gradient
is summed over the steps inside the products.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from seqgen.models import kernels
from seqgen.models.precision import full_precision

# Rows of inputs that are gathered before they are multiplied: a long sum is read and written less often, and in half
# precision rounded less often.
_ROWS = 1000  # no more than DEPTH of native/products.cpp

_current = threading.local()  # .passes: those of the run that this thread is inside, by layer


class StepLinear(nn.Linear):
    """y = W [inputs] + b; under autocast the product alone is in half precision.

    The first `fixed` inputs are the same at every step: `share` multiplies them once for all.
    """

    def __init__(self, inputs: int, outputs: int, fixed: int = 0) -> None:
        super().__init__(inputs, outputs)
        self.fixed = fixed

    def share(self, x: Tensor) -> Tensor:
        """The part of y that `x` [B,fixed] and b give, [B,O]."""
        return full_precision(functional.linear(x, self.weight[:, : self.fixed], self.bias))

    def forward(self, *inputs: Tensor, share: Tensor | None = None) -> Tensor:
        """`inputs` [B,I_1], [B,I_2], ... stand side by side -> [B,O]; with `share`, those that are not fixed."""
        layer = self._pass()
        if layer is not None:
            y = _Product.apply(layer, layer.weight, layer.bias, *inputs)
        else:
            weight, bias = self.part(share is not None)
            y = full_precision(functional.linear(side_by_side(inputs), weight, bias))
        return y if share is None else y + share

    def one(self, varying: bool = False) -> Pass:
        """The run's pass; outside a run, one for a single use."""
        return self._pass() or Pass(self, self.part(varying), lay=False)

    def _pass(self) -> Pass | None:
        # What is compiled knows no runs.
        return None if torch.compiler.is_compiling() else getattr(_current, "passes", {}).get(self)

    def part(self, varying: bool) -> tuple[Tensor, Tensor | None]:
        """Weights and bias, of all inputs or of the varying ones, which have no bias of their own."""
        return (self.weight[:, self.fixed :], None) if varying else (self.weight, self.bias)

    def product_dtype(self) -> torch.dtype:
        """What the product is computed in: the weights' type, or under autocast the one of that."""
        kind = self.weight.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype


class OneRun:
    """Has every StepLinear of a model lay out its weights once, and gather one gradient, over the steps `inside` it.

    Each step's product adds to the sum in place, where autograd makes T gradients and adds them up. The same object
    serves the steps that activation checkpointing runs again in the backward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._passes = {
            layer: Pass(layer, layer.part(varying=layer.fixed > 0), lay=True)
            for layer in model.modules()
            if isinstance(layer, StepLinear)
        }

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The steps of the run, in the thread that enters."""
        outer = getattr(_current, "passes", {})
        _current.passes = self._passes
        try:
            yield
        finally:
            _current.passes = outer


class Pass:
    """A layer's weights during one run over the steps, in its products' precision, and where their gradient gathers.

    `multiply` and `backward` are for the inside of autograd's functions, which take `weight` and `bias` as inputs.
    """

    def __init__(self, layer: StepLinear, part: tuple[Tensor, Tensor | None], *, lay: bool) -> None:
        dtype, stored = layer.product_dtype(), layer.weight.dtype
        native = lay and dtype == torch.float32 and kernels.available(part[0])
        self._laid = kernels.Laid(part[0].detach(), backward=torch.is_grad_enabled()) if native else None
        self._gradient = _Gradient(stored, dtype != stored, self._laid)
        self.weight, self.bias = _Begin.apply(*part, self._gradient, dtype)

    def multiply(self, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """W [inputs] + b, [B,O], and what `backward` wants kept."""
        self._widths = [part.shape[1] for part in inputs]  # the same at every step
        if self._laid is not None:
            parts = tuple(part.to(self.weight).contiguous() for part in inputs)
            return self._laid.product(parts, self.bias), parts
        x = side_by_side(inputs).to(self.weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            # The weight is kept, so that autograd sees if it is changed before the backward pass.
            return full_precision(functional.linear(x, self.weight, self.bias)), (x, self.weight)

    def backward(
        self, kept: Sequence[Tensor], grad: Tensor, weight: bool, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gather the gradients of W and b if `weight`; return those of the inputs that are `needed`."""
        grad = grad.to(self.weight.dtype).contiguous()
        if weight:
            self._gradient.add(kept if self._laid else kept[:1], grad)
        if not any(needed):
            return [None] * len(needed)
        if self._laid is not None:
            return self._laid.input_gradients(grad, kept, needed)
        return list(full_precision(grad @ kept[1]).split(self._widths, 1))


def side_by_side(inputs: Sequence[Tensor]) -> Tensor:
    """[B,I_1], [B,I_2], ... -> [B, I_1 + I_2 + ...]."""
    return inputs[0] if len(inputs) == 1 else torch.cat(tuple(inputs), 1)


class _Gradient:
    """The gradients of W and b in y = x W^T + b, summed over the steps of a run."""

    def __init__(self, dtype: torch.dtype, half: bool, laid: kernels.Laid | None) -> None:
        self._dtype, self._laid = dtype, laid
        self._together = _ROWS if half or laid else 1
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._steps: list[tuple[Sequence[Tensor], Tensor]] = []
        self._backward = -1  # the backward pass that gathers

    def add(self, parts: Sequence[Tensor], grad: Tensor) -> None:
        """The next step's inputs [B,I_1], [B,I_2], ... and the gradient of its outputs [B,O]."""
        self._only_this_backward()
        if self._steps and len(self._steps[0][1]) != len(grad):
            self._multiply()
        self._steps.append((parts, grad))
        if len(self._steps) * len(grad) >= self._together:
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
        steps, self._steps = self._steps, []
        grad = steps[0][1]
        if self._laid is not None:
            if self._weight is None or self._bias is None:
                self._weight = grad.new_zeros(self._laid.outputs, self._laid.inputs)
                self._bias = grad.new_zeros(self._laid.outputs)
            self._laid.add_gradient(steps, self._weight, self._bias)
            return
        x = steps[0][0][0]
        if len(steps) > 1:
            x, grad = torch.cat([parts[0] for parts, _ in steps]), torch.cat([grad for _, grad in steps])
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
        ctx: Any, weight: Tensor, bias: Tensor | None, gradient: _Gradient, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        ctx.gradient = gradient
        ctx.set_materialize_grads(False)
        return tuple(None if part is None else part.view_as(part).to(dtype) for part in (weight, bias))  # type: ignore[return-value]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight, bias = ctx.gradient.take()
        return weight, bias if ctx.needs_input_grad[1] else None, None, None


class _Product(Function):
    """x W^T + b; the gradients of W and b are gathered."""

    @staticmethod
    def forward(ctx: Any, layer: Pass, weight: Tensor, bias: Tensor | None, *inputs: Tensor) -> Tensor:
        y, kept = layer.multiply(inputs)
        ctx.layer = layer
        ctx.save_for_backward(*kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, weight, _, *inputs = ctx.needs_input_grad
        return None, None, None, *ctx.layer.backward(ctx.saved_tensors, grad, weight, inputs)
