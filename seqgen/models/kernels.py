"""The kernels of seqgen.native on tensors: float32, on the CPU, contiguous.

`available` says whether they may be called; `seqgen.models.functions` makes them differentiable.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from seqgen import native


def available(*tensors: Tensor) -> bool:
    """Whether the kernels are built and these tensors are theirs: float32, on the CPU, not under torch.compile."""
    if torch.compiler.is_compiling():
        return False
    return (
        all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        and native.library() is not None
    )


_Argument = int | float | Tensor | None
_C_TYPES = {int: ctypes.c_long, float: ctypes.c_float}


def _call(name: str, *arguments: _Argument | Sequence[Tensor | None]) -> None:
    """Call a kernel; sizes as long, numbers as float, tensors as pointers, a list as an array of them.

    The caller keeps the tensors, contiguous, until it is back.
    """
    function = getattr(_library(), name)
    if function.argtypes is None:
        function.argtypes = [_C_TYPES.get(type(a), ctypes.c_void_p) for a in arguments]
    function(*[a if isinstance(a, int | float) else _address(a) for a in arguments])


def _address(argument: Tensor | Sequence[Tensor | None] | None) -> Any:
    if argument is None:
        return None
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return (ctypes.c_void_p * len(argument))(*map(_address, argument))


def _check(right: bool, *tensors: Tensor) -> None:
    """The kernels look at no shape themselves."""
    if not right:
        raise ValueError(f"shapes {' and '.join(str(list(t.shape)) for t in tensors)} do not go together")


def _check_batch(*tensors: Tensor) -> None:
    """The kernels read as many images of each as the first says."""
    if len({len(tensor) for tensor in tensors}) > 1:
        raise ValueError(
            f"batches of {' and '.join(str(len(tensor)) for tensor in tensors)} images do not go together"
        )


class Laid:
    """A layer's weights `weight` [O,I] (rows may lie apart), laid out once for the products of a run.

    Inputs come in up to three parts [B,I_1], [B,I_2], ... that stand side by side, contiguous.
    """

    def __init__(self, weight: Tensor, *, backward: bool) -> None:
        self.outputs, self.inputs = weight.shape
        self._forward = self._room(weight, self.outputs, self.inputs)
        self._backward = self._room(weight, self.inputs, self.outputs) if backward else None
        if weight.stride(1) != 1:
            weight = weight.contiguous()
        _call("linear_lay", *weight.shape, weight.stride(0), weight, self._forward, self._backward)

    @staticmethod
    def _room(weight: Tensor, outputs: int, inputs: int) -> Tensor:
        return weight.new_empty(_library().linear_laid(outputs, inputs))

    def product(self, parts: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        """x W^T + b, [B,O]."""
        _check_batch(*parts)
        y = parts[0].new_empty(len(parts[0]), self.outputs)
        sizes, arrays = self._parts(parts)
        _call(
            "linear_forward", len(y), self.outputs, *sizes, torch.get_num_threads(), *arrays, self._forward, bias, y
        )  # fmt: skip
        return y

    def input_gradients(
        self, grad: Tensor, parts: Sequence[Tensor], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """grad W for the parts that need it, `grad` [B,O]."""
        assert self._backward is not None, "laid out without a backward pass"
        grads = [torch.empty_like(part) if need else None for part, need in zip(parts, needed, strict=True)]
        sizes, _ = self._parts(parts)
        _call(
            "linear_backward", len(grad), self.outputs, *sizes, torch.get_num_threads(), grad, self._backward,
            *grads, *[None] * (3 - len(grads)),
        )  # fmt: skip
        return grads

    def add_gradient(
        self, steps: Sequence[tuple[Sequence[Tensor], Tensor]], weight: Tensor, bias: Tensor
    ) -> None:
        """Add the weights' gradient, sum of grad^T x over `steps` of (parts, grad), to `weight` [O,I], `bias` [O]."""
        sizes: list[int] = []
        arrays: list[Tensor | None] = []
        for parts, _ in steps:
            sizes, step = self._parts(parts)
            arrays += step
        grads = [grad for _, grad in steps]
        _call(
            "linear_gradient", len(steps), len(grads[0]), self.outputs, *sizes, torch.get_num_threads(), arrays, grads,
            weight, bias,
        )  # fmt: skip

    def _parts(self, parts: Sequence[Tensor]) -> tuple[list[int], list[Tensor | None]]:
        widths = [part.shape[1] for part in parts]
        if sum(widths) != self.inputs or len(widths) > 3:
            raise ValueError(f"inputs of {widths} for a layer of {self.inputs}, in at most three parts")
        absent = 3 - len(parts)
        return widths + [0] * absent, [*parts, *[None] * absent]


def lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """h', cell' of an LSTM from its pre-activations [B,4D] in the order i, f, g, o, and `cell` [B,D].

    `gates` is used up: it holds the gates' values afterwards, which the backward pass wants.
    """
    _check(gates.shape == (len(cell), 4 * cell.shape[1]), gates, cell)
    h, following = torch.empty_like(cell), torch.empty_like(cell)
    _call("lstm_forward", *cell.shape, torch.get_num_threads(), gates, cell, h, following)
    return h, following


def lstm_backward(
    gates: Tensor, cell: Tensor, following: Tensor, grad_h: Tensor | None, grad_next: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of the pre-activations and of `cell`, from `lstm`'s gates and following cell."""
    grad_gates, grad_cell = torch.empty_like(gates), torch.empty_like(cell)
    _call(
        "lstm_backward", *cell.shape, torch.get_num_threads(), gates, cell, following, grad_h, grad_next,
        grad_gates, grad_cell,
    )  # fmt: skip
    return grad_gates, grad_cell


def draw(parameters: Tensor, noise: Tensor, limits: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """z = mean + sigma noise, mean and log sigma, [B,K] each: `parameters` [B,2K] hold mean and log sigma.

    log sigma is kept within `limits`.
    """
    _check(parameters.shape == (len(noise), 2 * noise.shape[1]), parameters, noise)
    z, mean, log_std = (torch.empty_like(noise) for _ in range(3))
    _call(
        "draw_forward", *noise.shape, torch.get_num_threads(), *map(float, limits), parameters, noise,
        z, mean, log_std,
    )  # fmt: skip
    return z, mean, log_std


def draw_backward(
    parameters: Tensor, noise: Tensor, limits: tuple[float, float], grads: Sequence[Tensor | None]
) -> Tensor:
    """The gradient of the parameters from those of z, mean and log sigma."""
    grad = torch.empty_like(parameters)
    _call(
        "draw_backward", *noise.shape, torch.get_num_threads(), *map(float, limits), parameters, noise,
        *grads, grad,
    )  # fmt: skip
    return grad


def kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL[N(mean, sigma) || N(0, I)] over the last axis, nats: [...,K] -> [...]."""
    _check(mean.shape == log_std.shape, mean, log_std)
    out = mean.new_empty(mean.shape[:-1])
    _call("kl_forward", out.numel(), mean.shape[-1], torch.get_num_threads(), mean, log_std, out)
    return out


def kl_backward(mean: Tensor, log_std: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of mean and log sigma."""
    grads = torch.empty_like(mean), torch.empty_like(log_std)
    _call("kl_backward", grad.numel(), mean.shape[-1], torch.get_num_threads(), mean, log_std, grad, *grads)
    return grads


def cgru(s: Tensor, weights: Sequence[Tensor], keep: bool) -> tuple[Tensor, Tensor | None]:
    """CGRU(s) of eq. 10 and, if `keep`, what the backward pass wants; `s` [B,C,H,W].

    `weights`, of 3 x 3 convolutions: the gates' (update, reset) [2C,C,3,3], [2C], the candidate's [C,C,3,3], [C].
    """
    kept = s.new_empty(len(s), _library().cgru_kept(*s.shape[1:])) if keep else None
    following = torch.empty_like(s)
    _call("cgru_forward", *s.shape, torch.get_num_threads(), s, *weights, following, kept)
    return following, kept


def cgru_backward(kept: Tensor, weights: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    """The gradients of s and of the four weights; `grad` [B,C,H,W]."""
    gates, _, candidate, _ = weights
    grads = torch.empty_like(grad), *(torch.empty_like(weight) for weight in weights)
    _call("cgru_backward", *grad.shape, torch.get_num_threads(), kept, gates, candidate, grad, *grads)
    return grads


Kept = tuple[Tensor, ...]


class Sampler(Protocol):
    """Samples images through a window that `parameters` describe."""

    def forward(self, parameters: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, Kept]:
        """What is sampled, [B,C,...], and what `backward` wants kept besides the inputs."""
        ...

    def backward(
        self, grad: Tensor, kept: Kept, parameters: Tensor, images: Sequence[Tensor], needed: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the parameters and of the images that are `needed`, from the sample's."""
        ...


class GaussianRead(NamedTuple):
    """gamma F_Y x F_X^T (DRAW eq. 27): `parameters` [B,5], image [B,C,H,W] -> [B,C,size,size].

    With logits [B,1,H,W] beside an image [B,1,H,W], image - sigmoid(logits) is read as a second channel.
    """

    size: int

    def forward(self, parameters: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, Kept]:
        """The glimpse, and the filters."""
        _check_batch(parameters, *images)
        image, logits = images if len(images) == 2 else (images[0], None)
        if logits is not None:
            _check(image.shape == logits.shape and image.shape[1] == 1, image, logits)
        channels = image.shape[1] if logits is None else 2
        glimpse = image.new_empty(len(image), channels, self.size, self.size)
        bank = _bank(image, self.size)
        _call(
            "gaussian_read_forward", *image.shape, self.size, torch.get_num_threads(), parameters, image, logits,
            glimpse, bank,
        )  # fmt: skip
        return glimpse, (bank,)

    def backward(
        self, grad: Tensor, kept: Kept, parameters: Tensor, images: Sequence[Tensor], needed: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """Of the parameters, the image and, if there were, the logits."""
        image, logits = images if len(images) == 2 else (images[0], None)
        grads = [torch.empty_like(image) if need else None for need in needed]
        grad_parameters = torch.empty_like(parameters)
        _call(
            "gaussian_read_backward", *image.shape, self.size, torch.get_num_threads(), parameters, image, logits,
            *kept, grad, grad_parameters, grads[0], grads[1] if logits is not None else None,
        )  # fmt: skip
        return grad_parameters, *grads


class GaussianWrite(NamedTuple):
    """(1 / gamma) F_Y^T w F_X (DRAW eq. 29): `parameters` [B,5], sprite [B,C,P,P] -> [B,C,height,width]."""

    height: int
    width: int

    def forward(self, parameters: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, Kept]:
        """What is written, and the filters."""
        (sprite,) = images
        _check_batch(parameters, sprite)
        batch, channels, size, _ = sprite.shape
        written = sprite.new_empty(batch, channels, self.height, self.width)
        bank = _bank(written, size)
        threads = torch.get_num_threads()
        _call("gaussian_write_forward", *written.shape, size, threads, parameters, sprite, written, bank)
        return written, (bank,)

    def backward(
        self, grad: Tensor, kept: Kept, parameters: Tensor, images: Sequence[Tensor], needed: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """Of the parameters and the sprite."""
        (sprite,) = images
        grads = torch.empty_like(parameters), torch.empty_like(sprite)
        _call(
            "gaussian_write_backward", *grad.shape, sprite.shape[-1], torch.get_num_threads(), parameters, sprite,
            *kept, grad, *grads,
        )  # fmt: skip
        return grads


class AffineSample(NamedTuple):
    """ST(x, lambda), bilinear, zeros outside: `parameters` [B,6], image [B,C,h,w] -> [B,C,height,width]."""

    height: int
    width: int

    def forward(self, parameters: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, Kept]:
        """The sample; nothing is kept."""
        (image,) = images
        _check_batch(parameters, image)
        out = image.new_empty(*image.shape[:2], self.height, self.width)
        _call("affine_forward", *image.shape, *self, torch.get_num_threads(), image, parameters, out)
        return out, ()

    def backward(
        self, grad: Tensor, kept: Kept, parameters: Tensor, images: Sequence[Tensor], needed: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """Of the parameters and the image."""
        (image,) = images
        grad_parameters = torch.empty_like(parameters)
        grad_image = torch.empty_like(image) if needed[0] else None
        _call(
            "affine_backward", *image.shape, *self, torch.get_num_threads(), image, parameters, grad,
            grad_image, grad_parameters,
        )  # fmt: skip
        return grad_parameters, grad_image


def _bank(image: Tensor, size: int) -> Tensor:
    batch, _, height, width = image.shape
    return image.new_empty(batch, _library().bank_kept(size, height, width))


def _library() -> ctypes.CDLL:
    library = native.library()
    assert library is not None
    return library
