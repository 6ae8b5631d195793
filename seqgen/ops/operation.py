"""What an operation is: its definition in torch, a fused version under the same signature, and the choice between them.

The definition is the equation and the oracle of the tests. The fused version is taken on a CPU, for float32, where the
kernels are built and were measured to be faster on this chip (`python -m seqgen.native`); never while torch.compile or
torch.export look on, which make their own of the definition. Nothing else in seqgen knows that there is a choice.

The fused versions are autograd functions and not operators of torch.library: as those a training step of DRAW (T = 10),
which makes 86 such calls, took 4 to 5 % longer on one thread (`custom_op`; 3 % by the lower `define` and `impl`), and
the limit we set was 2 %: `python -m benchmarks.dispatch`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from seqgen import native

P = ParamSpec("P")
R = TypeVar("R")
Example = Callable[[], Tensor]

OPERATIONS: dict[str, Operation] = {}


class Operation(Generic[P, R]):
    """A function with two versions; call it as the function it is."""

    def __init__(self, definition: Callable[P, R]) -> None:
        functools.update_wrapper(self, definition)
        self.name = definition.__name__
        self.definition = definition
        self._fused: Callable[P, R] | None = None
        self._fits: Callable[P, bool] = _ours
        self._anywhere = False
        self.examples: Callable[[], list[Example]] = list
        OPERATIONS[self.name] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The fused version where it fits and pays, else the definition."""
        fused = self._fused
        if (
            fused is not None
            and not torch.compiler.is_compiling()
            and (self._anywhere or native.available(self.name))
            and self._fits(*args, **kwargs)
        ):
            return fused(*args, **kwargs)
        return self.definition(*args, **kwargs)

    def fused(
        self,
        examples: Callable[[], list[Example]] | None = None,
        fits: Callable[P, bool] | None = None,
        anywhere: bool = False,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorates the fused version.

        `examples()` are calls on shapes of the family, each with a gradient, by which it is measured; `fits` says of
        arguments on the CPU in float32 whether they are the fused version's; with `anywhere` it is the only
        condition, for a version that needs no kernel and is not measured.
        """

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            self._fused, self._anywhere = function, anywhere
            if examples is not None:
                self.examples = examples
            if fits is not None and anywhere:
                self._fits = fits
            elif fits is not None:
                self._fits = lambda *args, **kwargs: _ours(*args, **kwargs) and fits(*args, **kwargs)
            return function

        return decorate


def operation(definition: Callable[P, R]) -> Operation[P, R]:
    """Decorates the definition of an operation."""
    return Operation(definition)


def _ours(*arguments: object, **named: object) -> bool:
    for argument in (*arguments, *named.values()):
        if isinstance(argument, list | tuple):
            if not _ours(*argument):
                return False
        elif isinstance(argument, Tensor) and not (argument.dtype == torch.float32 and argument.is_cpu):
            return False
    return True


def check_batch(*tensors: Tensor) -> None:
    """Raise ValueError unless all have as many images: the kernels read as many of each as the first says."""
    if len({len(tensor) for tensor in tensors}) > 1:
        counts = " and ".join(str(len(tensor)) for tensor in tensors)
        raise ValueError(f"batches of {counts} images do not go together")


def check(right: bool, *tensors: Tensor) -> None:
    """Raise ValueError that names the shapes if they are not `right`: the kernels look at none themselves."""
    if not right:
        raise ValueError(f"shapes {' and '.join(str(list(t.shape)) for t in tensors)} do not go together")


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """As the kernels read it."""
    return None if tensor is None else tensor.contiguous()
