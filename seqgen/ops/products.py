"""A linear map, and how its weights are treated while they are used again and again over the steps of a run.

Inside `Repeated` a weight is prepared once for all steps: converted to autocast's precision or, on a CPU in float32,
packed for products of our own; and its gradient is gathered over the steps and added up in place, where autograd would
make T gradients and add them.
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

from seqgen import native
from seqgen.ops.operation import Example, check_batch, operation
from seqgen.ops.precision import full_precision

# Rows of inputs that are gathered before they are multiplied: a long sum is read and written less often, and in half
# precision rounded less often.
_ROWS = 1000  # no more than DEPTH of native/products.cpp

_this_thread = threading.local()  # .run: the run that this thread is inside


@operation
def linear(inputs: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """y = W [inputs] + b: `inputs` [B,I_1], [B,I_2], ... stand side by side, `weight` [O,I], `bias` [O] -> [B,O].

    Under autocast the product alone is in half precision.
    """
    return full_precision(functional.linear(_side_by_side(inputs), weight, bias))


def _side_by_side(inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0] if len(inputs) == 1 else torch.cat(tuple(inputs), 1)


def _examples() -> list[Example]:
    def example(outputs: int, *widths: int) -> Example:
        weight, bias = torch.randn(outputs, sum(widths), requires_grad=True), torch.zeros(outputs)
        steps = [[torch.randn(100, width, requires_grad=True) for width in widths] for _ in range(8)]

        def run() -> Tensor:
            with Repeated().inside():
                return torch.cat([linear(inputs, weight, bias) for inputs in steps])

        return run

    return [example(1024, 8, 256, 256), example(1600, 4, 400), example(576, 400)]


def inside_a_run(*_: object, **__: object) -> bool:
    """Whether this thread is inside `Repeated`."""
    return getattr(_this_thread, "run", None) is not None


@linear.fused(_examples, fits=inside_a_run, anywhere=True)
def _fused(inputs: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    used = used_again(weight, bias)
    return _Product.apply(used, used.weight, used.bias, *inputs)


class Repeated:
    """A run over many steps. The same object serves steps that activation checkpointing runs again."""

    def __init__(self) -> None:
        self.weights: dict[Tensor, RepeatedWeight] = {}

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
    weights: dict[Tensor, RepeatedWeight] = _this_thread.run.weights
    if weight not in weights:
        weights[weight] = RepeatedWeight(weight, bias)
    return weights[weight]


class RepeatedWeight:
    """A layer's weights in a run, in its products' precision, and where their gradient gathers.

    `multiply` and `backward` are for the inside of autograd's functions, which take `weight` and `bias` as inputs.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        kind, dtype = weight.device.type, weight.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        packs = kind == "cpu" and dtype == torch.float32 and native.available("linear")
        self.packed = PackedWeight(weight.detach(), backward=torch.is_grad_enabled()) if packs else None
        self._gradient = _GatheredGradient(weight.dtype, self.packed)
        self.weight, self.bias = _Begin.apply(weight, bias, self._gradient, dtype)

    def multiply(self, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """W [inputs] + b, [B,O], and what `backward` wants kept."""
        self._widths = [part.shape[1] for part in inputs]  # the same at every step
        if self.packed is not None:
            parts = tuple(part.to(self.weight).contiguous() for part in inputs)
            return self.packed.product(parts, self.bias), parts
        x = _side_by_side(inputs).to(self.weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            # The weight is kept, so that autograd sees if it is changed before the backward pass.
            return full_precision(functional.linear(x, self.weight, self.bias)), (x, self.weight)

    def backward(
        self, kept: Sequence[Tensor], grad: Tensor, weight: bool, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gather the gradients of W and b if `weight`; return those of the inputs that are `needed`."""
        grad = grad.to(self.weight.dtype).contiguous()
        if weight:
            self._gradient.add(kept if self.packed else kept[:1], grad)
        if not any(needed):
            return [None] * len(needed)
        if self.packed is not None:
            return self.packed.input_gradients(grad, kept, needed)
        return list(full_precision(grad @ kept[1]).split(self._widths, 1))


class PackedWeight:
    """A layer's weights [O,I] as the kernels' products read them; inputs come in parts [B,I_1], [B,I_2], ..."""

    def __init__(self, weight: Tensor, *, backward: bool) -> None:
        self.outputs, self.inputs = weight.shape
        self._forward = self._room(weight, self.outputs, self.inputs)
        self._backward = self._room(weight, self.inputs, self.outputs) if backward else None
        if weight.stride(1) != 1:
            weight = weight.contiguous()
        native.call("linear_pack", *weight.shape, weight.stride(0), weight, self._forward, self._backward)

    @staticmethod
    def _room(weight: Tensor, outputs: int, inputs: int) -> Tensor:
        return weight.new_empty(native.library().linear_packed(outputs, inputs))

    def product(self, parts: Sequence[Tensor], bias: Tensor) -> Tensor:
        """x W^T + b, [B,O]."""
        check_batch(*parts)
        y = parts[0].new_empty(len(parts[0]), self.outputs)
        native.call(
            "linear_forward", len(y), self.outputs, len(parts), torch.get_num_threads(), self._widths(parts),
            parts, self._forward, bias, y,
        )  # fmt: skip
        return y

    def input_gradients(
        self, grad: Tensor, parts: Sequence[Tensor], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """grad W for the parts that need it, `grad` [B,O]."""
        assert self._backward is not None, "packed without a backward pass"
        grads = [torch.empty_like(part) if need else None for part, need in zip(parts, needed, strict=True)]
        native.call(
            "linear_backward", len(grad), self.outputs, len(parts), torch.get_num_threads(), self._widths(parts),
            grad, self._backward, grads,
        )  # fmt: skip
        return grads

    def add_gradient(
        self, steps: Sequence[tuple[Sequence[Tensor], Tensor]], weight: Tensor, bias: Tensor
    ) -> None:
        """Add the weights' gradient, sum of grad^T x over `steps` of (parts, grad), to `weight` [O,I], `bias` [O]."""
        widths = self._widths(steps[0][0])
        arrays = [part for parts, _ in steps for part in parts]
        grads = [grad for _, grad in steps]
        native.call(
            "linear_gradient", len(steps), len(grads[0]), self.outputs, len(widths), torch.get_num_threads(), widths,
            arrays, grads, weight, bias,
        )  # fmt: skip

    def _widths(self, parts: Sequence[Tensor]) -> list[int]:
        widths = [part.shape[1] for part in parts]
        if sum(widths) != self.inputs:
            raise ValueError(f"inputs of {widths} for a layer of {self.inputs}")
        return widths


class _GatheredGradient:
    """The gradients of W and b in y = x W^T + b, summed over the steps of a run."""

    def __init__(self, dtype: torch.dtype, packed: PackedWeight | None) -> None:
        self._dtype, self._packed = dtype, packed
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
        if len(self._steps) * len(grad) >= _ROWS:
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
        if self._packed is not None:
            if self._weight is None or self._bias is None:
                self._weight = grad.new_zeros(self._packed.outputs, self._packed.inputs)
                self._bias = grad.new_zeros(self._packed.outputs)
            self._packed.add_gradient(steps, self._weight, self._bias)
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
        ctx.used = used
        ctx.save_for_backward(*kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, weight, _, *inputs = ctx.needs_input_grad
        return None, None, None, *ctx.used.backward(ctx.saved_tensors, grad, weight, inputs)
