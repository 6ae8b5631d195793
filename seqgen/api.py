"""A trained model as one works with it in Python.

Arrays in, tensors out:

    model = seqgen.load("models:/seqgen-one-shot-30-20@champion")
    model.sample(16, context=x)
"""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from seqgen.core.errors import BadInput
from seqgen.models import SequentialModel, Trace
from seqgen.serving import loading

_PAIRS = 1000  # (image, sample) pairs at once
_CHAINS = 100  # images at once whose chains are kept, every state


def load(where: str | Path) -> Model:
    """The model in a directory, or that of `models:/<name>@<alias>` or `models:/<name>/<version>`.

    See `seqgen.serving.loading.load`, whose errors are raised.
    """
    return Model(loading.load(where))


class Model:
    """A trained model. Images are arrays or tensors [n,H,W] or [H,W] with values in [0,1], 1 = ink.

    What is random follows from `seed`: a call gives the same numbers again. A conditional model takes a context an
    image, [n,H,W], or N of them, [n,N,H,W]; one [H,W] is for all. Raises BadInput for what does not fit or is not a
    number. `module` is the torch module, in evaluation mode on the CPU; `module.to(device)` moves all that follows.
    """

    def __init__(self, module: SequentialModel) -> None:
        self.module = module

    @property
    def conditional(self) -> bool:
        """Whether it draws given a context."""
        return self.module.config.conditional

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        return self.module.sizes.height, self.module.sizes.width

    @property
    def binary(self) -> bool:
        """Whether its likelihood is of pixels that are 0 or 1."""
        return any(getattr(kind.settings, "pixels", "") == "binary" for kind in self.module.config.kinds())

    def __repr__(self) -> str:
        kinds = ", ".join(f"{kind.slot}={kind.name}" for kind in self.module.config.kinds())
        height, width = self.shape
        return f"seqgen.Model({height}x{width}, T={self.module.config.steps}, {kinds})"

    @torch.inference_mode()
    def sample(self, count: int = 1, *, context: Any = None, seed: int = 0) -> Tensor:
        """Draw from the prior: mean images [count,H,W].

        `context` is one drawing [H,W] or several of one character, [N,H,W].
        """
        if count < 1:
            raise BadInput(f"count={count}: at least 1")
        noise = self.module.noise(count, _generator(seed)).to(self._device)
        shown = self._context(None if context is None else self._array("context", context)[None], 1)
        parts = [self.module.sample(part, shown) for part in noise.split(_PAIRS, 1)]
        return torch.cat(parts).squeeze(1)

    @torch.inference_mode()
    def nll(self, x: Any, num_samples: int = 500, *, context: Any = None, seed: int = 0) -> Tensor:
        """-L_k of every image, k = `num_samples` (Burda et al. 2015): above -log p(x) in the mean; nats, [n]."""
        from seqgen.evaluation.bounds import HeldOut, importance_bounds

        images = self._images("x", x)
        if num_samples < 1:
            raise BadInput(f"num_samples={num_samples}: at least 1")
        _generator(seed)
        shown, each = self._context(context, len(images)), torch.arange(len(images))
        return importance_bounds(self.module, HeldOut(images, shown, each), num_samples, seed)

    def trace(self, x: Any = None, *, context: Any = None, seed: int = 0) -> Trace:
        """Watch a drawing, step by step: from the posterior of `x`, or one from the prior."""
        images = None if x is None else self._images("x", x)
        count = 1 if images is None else len(images)
        noise = self.module.noise(count, _generator(seed)).to(self._device)
        return self.module.trace(noise, images, self._context(context, count))

    def impute(
        self, x: Any, missing: Any, *, steps: int = 100, context: Any = None, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Fill in pixels where `missing` [H,W] or [n,H,W] is True (Rezende et al. 2014): a sample and a mean, [n,H,W].

        The Markov chain of `seqgen.evaluation.imputation`, `steps` long; the mean is that of its last half. What `x`
        has at missing pixels is not looked at.
        """
        from seqgen.evaluation.imputation import impute

        if steps < 1:
            raise BadInput(f"steps={steps}: at least 1")
        mask = self._stack("missing", self._array("missing", missing)).bool().cpu()
        given = self._stack("x", _numbers("x", x))
        if len(mask) not in (1, len(given)):
            raise BadInput(f"missing: {len(mask)} masks for {len(given)} images; give one, or one for each")
        images = self._images("x", torch.where(mask, 0.0, given))
        mask = mask.to(self._device).expand_as(images)
        start = torch.where(mask, self.module.sizes.mean, images)
        shown, generator = self._context(context, len(images)), _generator(seed)
        samples, means = [], []
        for part in torch.arange(len(images)).split(_CHAINS):
            some = None if shown is None else shown[part]
            filled = impute(self.module, start[part], mask[part], steps, generator, some)
            samples.append(filled.states[-1])
            means.append(filled.mean)
        return torch.cat(samples).squeeze(1), torch.cat(means).squeeze(1)

    def compress(self, images: Any) -> bytes:
        """Binary images, losslessly, by bits-back coding (`seqgen.compression`)."""
        from seqgen.compression import encode

        return encode(self.module, self._images("images", images))

    def decompress(self, content: bytes) -> Tensor:
        """What `compress` was given, uint8 [n,H,W]; on the same kind of machine, with the same torch."""
        from seqgen.compression import decode

        return decode(self.module, content).squeeze(1)

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _array(self, name: str, values: Any) -> Tensor:
        """`values` as float32 on the CPU, all of them numbers in [0,1], of the model's height and width."""
        found = _numbers(name, values)
        height, width = self.shape
        if found.ndim < 2 or found.shape[-2:] != (height, width) or 0 in found.shape:
            raise BadInput(f"{name}: shape {list(found.shape)}; the model takes [n, {height}, {width}]")
        bad = ~((found >= 0) & (found <= 1))
        if bad.any():
            raise BadInput(f"{name}: {found[bad][0].item():g} among its values; they are in [0, 1], 1 = ink")
        return found

    def _images(self, name: str, values: Any) -> Tensor:
        """Images [n,1,H,W] on the model's device, of which a likelihood is asked."""
        found = self._stack(name, self._array(name, values))
        if self.binary and not ((found == 0) | (found == 1)).all():
            raise BadInput(
                f"{name}: grey values, and the model's pixels are 0 or 1; give for example x > 0.5"
            )
        return found.to(self._device)

    def _stack(self, name: str, found: Tensor) -> Tensor:
        """[n,H,W], [n,1,H,W] or [H,W] as [n,1,H,W]."""
        if found.ndim == 4 and found.shape[1] == 1:
            found = found.squeeze(1)
        if found.ndim not in (2, 3) or found.shape[-2:] != self.shape:
            height, width = self.shape
            raise BadInput(f"{name}: shape {list(found.shape)}; the model takes [n, {height}, {width}]")
        return found.reshape(-1, 1, *self.shape)

    def _context(self, values: Any, count: int) -> Tensor | None:
        """Contexts [count,N,H,W] on the model's device; None for an unconditional model, which takes none."""
        if not self.conditional:
            if values is not None:
                raise BadInput("context: this model is unconditional; leave it out")
            return None
        if values is None:
            raise BadInput("context: this model draws given a context image; give one")
        found = self._array("context", values)
        if found.ndim == 2:
            found = found.expand(count, 1, *self.shape)
        elif found.ndim == 3:
            found = found.unsqueeze(1)
        if found.ndim != 4 or len(found) != count:
            raise BadInput(f"context: shape {list(found.shape)} for {count} images; give [n, N, H, W]")
        return found.to(self._device)


def _generator(seed: int) -> Generator:
    """A generator on the CPU. Raises BadInput for what is no seed."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise BadInput(f"seed={seed!r}: a whole number from 0 to {2**32 - 1}")
    return Generator().manual_seed(int(seed))


def _numbers(name: str, values: Any) -> Tensor:
    """`values` as float32 on the CPU."""
    try:
        return torch.as_tensor(values).detach().cpu().float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{name}: no array of numbers ({error})") from None
