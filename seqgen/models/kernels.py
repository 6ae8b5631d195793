"""The fused kernels of seqgen.native as differentiable functions of tensors.

Each computes what the pure torch code that calls it computes; `available` says whether it may be called.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from seqgen import native


def available(*tensors: Tensor) -> bool:
    """Whether the kernels are built and these tensors are theirs: float32, on the CPU, not under torch.compile."""
    if torch.compiler.is_compiling():
        return False
    return (
        all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and native.library() is not None
    )


def _call(name: str, *arguments: int | Tensor | None) -> None:
    """Call a kernel; sizes as long, tensors as pointers. The caller keeps the tensors, contiguous, until it is back."""
    function = getattr(native.library(), name)
    function(
        *(
            ctypes.c_long(argument)
            if isinstance(argument, int)
            else ctypes.c_void_p(None if argument is None else argument.data_ptr())
            for argument in arguments
        )
    )


def _check_batch(*tensors: Tensor) -> None:
    """The kernels read as many images of each as the first says."""
    if len({len(tensor) for tensor in tensors}) > 1:
        raise ValueError(
            f"batches of {' and '.join(str(len(tensor)) for tensor in tensors)} images do not go together"
        )


class _Lstm(Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        gates, cell = gates.contiguous(), cell.contiguous()
        batch, hidden = cell.shape
        h, following, active = (
            torch.empty_like(cell),
            torch.empty_like(cell),
            cell.new_empty(batch, 5 * hidden),
        )
        _call("lstm_forward", batch, hidden, torch.get_num_threads(), gates, cell, h, following, active)
        ctx.save_for_backward(active, cell)
        ctx.set_materialize_grads(False)
        return h, following

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor | None, grad_next: Tensor | None) -> tuple[Tensor, Tensor]:
        active, cell = ctx.saved_tensors
        batch, hidden = cell.shape
        grad_h = torch.zeros_like(cell) if grad_h is None else grad_h.contiguous()
        grad_next = None if grad_next is None else grad_next.contiguous()
        grad_gates, grad_cell = cell.new_empty(batch, 4 * hidden), torch.empty_like(cell)
        threads = torch.get_num_threads()
        _call("lstm_backward", batch, hidden, threads, active, cell, grad_h, grad_next, grad_gates, grad_cell)
        return grad_gates, grad_cell


def lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """h', cell' of an LSTM from its pre-activations [B,4D] in the order i, f, g, o, and `cell` [B,D]."""
    _check_batch(gates, cell)
    return _Lstm.apply(gates, cell)


class _Cgru(Function):
    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        gates: Tensor,
        gates_bias: Tensor,
        candidate: Tensor,
        candidate_bias: Tensor,
        keep: bool,
    ) -> Tensor:
        s, gates, candidate = s.contiguous(), gates.contiguous(), candidate.contiguous()
        batch, channels, height, width = s.shape
        kept = None
        if keep:
            kept = s.new_empty(batch, native.library().cgru_kept(channels, height, width))  # type: ignore[union-attr]
            ctx.save_for_backward(kept, gates, candidate)
            ctx.shape = s.shape
        following = torch.empty_like(s)
        _call(
            "cgru_forward", *s.shape, torch.get_num_threads(), s, gates, gates_bias, candidate, candidate_bias,
            following, kept,
        )  # fmt: skip
        return following

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, gates, candidate = ctx.saved_tensors
        grad = grad.contiguous()
        grad_s, grad_gates, grad_candidate = (
            torch.empty_like(grad),
            torch.empty_like(gates),
            torch.empty_like(candidate),
        )
        grad_gates_bias, grad_candidate_bias = (
            gates.new_empty(len(gates)),
            candidate.new_empty(len(candidate)),
        )
        _call(
            "cgru_backward", *ctx.shape, torch.get_num_threads(), kept, gates, candidate, grad,
            grad_s, grad_gates, grad_gates_bias, grad_candidate, grad_candidate_bias,
        )  # fmt: skip
        return grad_s, grad_gates, grad_gates_bias, grad_candidate, grad_candidate_bias, None


def cgru(s: Tensor, gates: nn.Conv2d, candidate: nn.Conv2d) -> Tensor:
    """CGRU(s) of eq. 10: `s` [B,C,H,W]; 3 x 3 convolutions, `gates` (update, reset) to 2C channels."""
    keep = torch.is_grad_enabled()  # inside the function it never is
    return _Cgru.apply(s, gates.weight, gates.bias, candidate.weight, candidate.bias, keep)


class _GaussianRead(Function):
    @staticmethod
    def forward(ctx: Any, parameters: Tensor, image: Tensor, size: int) -> Tensor:
        parameters, image = parameters.contiguous(), image.contiguous()
        batch, channels = image.shape[:2]
        glimpse = image.new_empty(batch, channels, size, size)
        kept = _bank(image, size)
        _call(
            "gaussian_read_forward",
            *image.shape,
            size,
            torch.get_num_threads(),
            parameters,
            image,
            glimpse,
            kept,
        )
        ctx.save_for_backward(parameters, image, kept)
        ctx.size = size
        return glimpse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        parameters, image, kept = ctx.saved_tensors
        grad_parameters = torch.empty_like(parameters)
        grad_image = torch.empty_like(image) if ctx.needs_input_grad[1] else None
        _call(
            "gaussian_read_backward", *image.shape, ctx.size, torch.get_num_threads(), parameters, image, kept,
            grad.contiguous(), grad_parameters, grad_image,
        )  # fmt: skip
        return grad_parameters, grad_image, None


def gaussian_read(parameters: Tensor, image: Tensor, size: int) -> Tensor:
    """gamma F_Y x F_X^T (DRAW eq. 27) of `image` [B,C,H,W] with window `parameters` [B,5] -> [B,C,P,P]."""
    _check_batch(parameters, image)
    return _GaussianRead.apply(parameters, image, size)


class _GaussianWrite(Function):
    @staticmethod
    def forward(ctx: Any, parameters: Tensor, sprite: Tensor, height: int, width: int) -> Tensor:
        parameters, sprite = parameters.contiguous(), sprite.contiguous()
        batch, channels, size, _ = sprite.shape
        written = sprite.new_empty(batch, channels, height, width)
        kept = _bank(written, size)
        _call(
            "gaussian_write_forward",
            *written.shape,
            size,
            torch.get_num_threads(),
            parameters,
            sprite,
            written,
            kept,
        )
        ctx.save_for_backward(parameters, sprite, kept)
        return written

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        parameters, sprite, kept = ctx.saved_tensors
        grad_parameters, grad_sprite = torch.empty_like(parameters), torch.empty_like(sprite)
        _call(
            "gaussian_write_backward", *grad.shape, sprite.shape[-1], torch.get_num_threads(), parameters, sprite, kept,
            grad.contiguous(), grad_parameters, grad_sprite,
        )  # fmt: skip
        return grad_parameters, grad_sprite, None, None


def gaussian_write(parameters: Tensor, sprite: Tensor, height: int, width: int) -> Tensor:
    """(1 / gamma) F_Y^T w F_X (DRAW eq. 29) of `sprite` [B,C,P,P], `parameters` [B,5] -> [B,C,height,width]."""
    _check_batch(parameters, sprite)
    return _GaussianWrite.apply(parameters, sprite, height, width)


def _bank(image: Tensor, size: int) -> Tensor:
    batch, _, height, width = image.shape
    return image.new_empty(batch, native.library().bank_kept(size, height, width))  # type: ignore[union-attr]


class _Affine(Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
        image, matrix = image.contiguous(), matrix.contiguous()
        out = image.new_empty(*image.shape[:2], height, width)
        _call("affine_forward", *image.shape, height, width, torch.get_num_threads(), image, matrix, out)
        ctx.save_for_backward(image, matrix)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        image, matrix = ctx.saved_tensors
        grad_image = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        grad_matrix = torch.empty_like(matrix)
        _call(
            "affine_backward", *image.shape, *grad.shape[2:], torch.get_num_threads(), image, matrix, grad.contiguous(),
            grad_image, grad_matrix,
        )  # fmt: skip
        return grad_image, grad_matrix, None, None


def affine_sample(image: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
    """ST(x, lambda) of `image` [B,C,h,w] at `matrix` [B,2,3] -> [B,C,height,width]; bilinear, zeros outside."""
    _check_batch(image, matrix)
    return _Affine.apply(image, matrix, height, width)
