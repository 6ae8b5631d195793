"""A linear map that is applied once a step: its weight gradient is summed over the steps inside the products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from seqgen.models.precision import full_precision

# In half precision, rows of inputs that are gathered before they are multiplied: a sum over many steps is rounded once.
_ROWS = 1024


class StepLinear(nn.Linear):
    """y = W [inputs] + b; under autocast the product alone is in half precision.

    The first `fixed` inputs are the same at every step: `share` multiplies them once for all.
    """

    def __init__(self, inputs: int, outputs: int, fixed: int = 0) -> None:
        super().__init__(inputs, outputs)
        self.fixed = fixed
        self._pass: _Pass | None = None

    def share(self, x: Tensor) -> Tensor:
        """The part of y that `x` [B,fixed] and b give, [B,O]."""
        return full_precision(functional.linear(x, self.weight[:, : self.fixed], self.bias))

    def forward(self, *inputs: Tensor, share: Tensor | None = None) -> Tensor:
        """`inputs` [B,I_1], [B,I_2], ... stand side by side -> [B,O]; with `share`, those that are not fixed."""
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1)
        if self._pass is not None:
            return self._pass.product(x, share)
        weight = self.weight if share is None else self.weight[:, self.fixed :]
        y = full_precision(functional.linear(x, weight, self.bias if share is None else None))
        return y if share is None else y + share

    def product_dtype(self) -> torch.dtype:
        """What the product is computed in: the weights' type, or under autocast the one of that."""
        kind = self.weight.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype


class OneGradient:
    """Makes every StepLinear of a model gather its gradient over the steps that are run `inside` it.

    Each step's product then adds to the sum in place, where autograd makes T gradients and adds them up. The same
    object serves the steps that activation checkpointing runs again in the backward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._passes = [(layer, _Pass(layer)) for layer in model.modules() if isinstance(layer, StepLinear)]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The steps of the run."""
        for layer, one in self._passes:
            layer._pass = one
        try:
            yield
        finally:
            for layer, _ in self._passes:
                layer._pass = None


class _Pass:
    """A layer's weights during one run over the steps, in its products' precision, and where their gradient gathers."""

    def __init__(self, layer: StepLinear) -> None:
        self.dtype = layer.product_dtype()
        self.gradient = _Gradient(layer.weight.dtype)
        weight, bias = (layer.weight[:, layer.fixed :], None) if layer.fixed else (layer.weight, layer.bias)
        self.weight, self.bias = _Begin.apply(weight, bias, self.gradient, self.dtype)

    def product(self, x: Tensor, share: Tensor | None) -> Tensor:
        y = full_precision(_Product.apply(x.to(self.dtype), self.weight, self.bias, self.gradient))
        return y if share is None else y + share


class _Gradient:
    """The gradients of W and b in y = x W^T + b, summed over the steps of a run."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._inputs: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._rows = 0
        self._backward = -1  # the backward pass that gathers

    def add(self, x: Tensor, grad: Tensor) -> None:
        """The next step's inputs [B,I] and the gradient of its outputs [B,O]."""
        self._only_this_backward()
        if x.dtype == self._dtype and self._weight is not None and self._bias is not None:
            self._weight.addmm_(grad.mT, x)
            self._bias += grad.sum(0)
            return
        self._inputs.append(x)
        self._grads.append(grad)
        self._rows += len(x)
        if x.dtype == self._dtype or self._rows >= _ROWS:
            self._multiply()

    def take(self) -> tuple[Tensor | None, Tensor | None]:
        """The gradients so far, [O,I] and [O], None if there was no step; begins anew."""
        self._only_this_backward()
        self._multiply()
        weight, bias = self._weight, self._bias
        self._weight = self._bias = None
        return weight, bias

    def _only_this_backward(self) -> None:
        """Drop what a pass left that did not ask for the weights' gradient, or failed half-way."""
        running = torch._C._current_graph_task_id()
        if running != self._backward:
            self._backward, self._weight, self._bias = running, None, None
            self._inputs, self._grads, self._rows = [], [], 0

    def _multiply(self) -> None:
        if not self._inputs:
            return
        x, grad = torch.cat(self._inputs), torch.cat(self._grads)
        weight, bias = (grad.mT @ x).to(self._dtype), grad.sum(0, dtype=self._dtype)
        self._weight = weight if self._weight is None else self._weight.add_(weight)
        self._bias = bias if self._bias is None else self._bias.add_(bias)
        self._inputs, self._grads, self._rows = [], [], 0


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
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gradient: _Gradient) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.gradient = gradient
        with torch.autocast(x.device.type, enabled=False):
            return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        if ctx.needs_input_grad[1]:
            ctx.gradient.add(x, grad)
        return grad @ weight if ctx.needs_input_grad[0] else None, None, None, None
