"""The LSTM (eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from seqgen.native import call
from seqgen.ops.operation import Example, check, contiguous, operation
from seqgen.ops.products import Repeated, RepeatedWeight, inside_a_run, linear, used_again


@operation
def lstm(inputs: Sequence[Tensor], cell: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """cell' = f cell + i g, h' = o tanh(cell'), with i, f, o = sigmoid(.), g = tanh(.) of W [inputs] + b.

    `inputs` [B,I_1], [B,I_2], ..., h among them, stand side by side; `cell` [B,D], `weight` [4D,I] and `bias` [4D] in
    the order i, f, g, o -> h', cell' [B,D].
    """
    i, f, g, o = linear(inputs, weight, bias).chunk(4, 1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _examples() -> list[Example]:
    def example(hidden: int, *widths: int) -> Example:
        weight = (0.05 * torch.randn(4 * hidden, hidden + sum(widths))).requires_grad_()
        bias, start = torch.zeros(4 * hidden), torch.zeros(100, hidden, requires_grad=True)
        given = [torch.randn(100, width) for width in widths]

        def run() -> Tensor:
            h = cell = start
            with Repeated().inside():
                for _ in range(8):
                    h, cell = lstm((*given, h), cell, weight, bias)
            return h

        return run

    return [example(256, 100), example(400, 4)]


@lstm.fused(_examples, fits=inside_a_run)
def _fused(inputs: Sequence[Tensor], cell: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    used = used_again(weight, bias)
    return _Lstm.apply(used, used.weight, used.bias, cell, *inputs)


class _Lstm(Function):
    """With its product in one function: fewer calls for autograd, and the gates' values take their inputs' place."""

    @staticmethod
    def forward(
        ctx: Any, used: RepeatedWeight, weight: Tensor, bias: Tensor, cell: Tensor, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        gates, kept = used.multiply(inputs)
        check(gates.shape == (len(cell), 4 * cell.shape[1]), gates, cell)
        cell = cell.contiguous()
        h, following = torch.empty_like(cell), torch.empty_like(cell)
        call("lstm_forward", *cell.shape, torch.get_num_threads(), gates, cell, h, following)
        ctx.used, ctx.widths = used, [part.shape[1] for part in inputs]
        ctx.save_for_backward(gates, cell, following, *kept)
        ctx.set_materialize_grads(False)
        return h, following

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor | None, grad_next: Tensor | None) -> tuple[Tensor | None, ...]:
        gates, cell, following, *kept = ctx.saved_tensors
        grad_gates, grad_cell = torch.empty_like(gates), torch.empty_like(cell)
        call(
            "lstm_backward", *cell.shape, torch.get_num_threads(), gates, cell, following, contiguous(grad_h),
            contiguous(grad_next), grad_gates, grad_cell,
        )  # fmt: skip
        _, _, _, _, *inputs = ctx.needs_input_grad
        return None, None, None, grad_cell, *ctx.used.backward(kept, ctx.widths, grad_gates, inputs)
