"""What a request is for the model's thread: passes through the model, one after the other.

A task is a generator. It yields a `Pass`, which may be made together with those of other requests, and is sent what
came of its own images; or None, when it has done a piece of work by itself and others may have their turn. It
returns what it was asked for. Between two yields no more goes through the model than AT_ONCE images, the chains of an
imputation once, or a chunk of the pairs of an image and a posterior sample.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from seqgen.evaluation.bounds import HeldOut, importance_chunks
from seqgen.evaluation.imputation import Link, chain
from seqgen.models import SequentialModel, Trace

AT_ONCE = 128  # images in one pass


class Pass(NamedTuple):
    """One pass of B images: noise [T,B,N], x [B,1,H,W] or None, one context for all, [1,N,H,W], or None."""

    how: Literal["sample", "trace"]
    noise: Tensor
    x: Tensor | None
    context: Tensor | None

    @property
    def kind(self) -> tuple[object, ...]:
        """Passes of one kind, of one model, may be one."""
        return self.how, self.x is None, None if self.context is None else self.context.shape[1]


Task = Generator[Pass | None, Any, Any]


def make(model: SequentialModel, passes: Sequence[Pass]) -> list[Any]:
    """What `model` gives for each of `passes`, all of one kind: images [B,H,W], or a Trace of B; in one pass.

    A batch is rounded otherwise than its parts are by themselves: the numbers may differ in their last bits.
    """
    how = passes[0].how
    sizes = [one.noise.shape[1] for one in passes]
    noise = torch.cat([one.noise for one in passes], 1)
    x = _joined([one.x for one in passes])
    if how == "sample" and len(passes) == 1:
        context = passes[0].context  # what is read of it is computed once for all
    else:
        context = _joined([_repeated(one.context, size) for one, size in zip(passes, sizes, strict=True)])
    if how == "sample":
        return list(model.sample(noise, context).squeeze(1).split(sizes))
    parts = [
        (None,) * len(sizes) if part is None else part.split(sizes, 1)
        for part in model.trace(noise, x, context)
    ]
    return [Trace(*part) for part in zip(*parts, strict=True)]


def drawings(noise: Tensor, context: Tensor | None) -> Task:
    """Mean images [B,H,W] of drawings from the prior by `noise` [T,B,N]."""
    parts = []
    for part in noise.split(AT_ONCE, 1):
        parts.append((yield Pass("sample", part, None, context)))
    return torch.cat(parts)


def traces(noise: Tensor, x: Tensor | None, context: Tensor | None) -> Task:
    """The Trace of B drawings, from the posterior of x [B,1,H,W] if given."""
    parts: list[Trace] = []
    for start in range(0, noise.shape[1], AT_ONCE):
        part = slice(start, start + AT_ONCE)
        parts.append((yield Pass("trace", noise[:, part], None if x is None else x[part], context)))
    return Trace._make(None if each[0] is None else torch.cat(each, 1) for each in zip(*parts, strict=True))


def likelihoods(
    model: SequentialModel, x: Tensor, context: Tensor | None, num_samples: int, seed: int
) -> Task:
    """-L_k of every image x [B,1,H,W] in nats, [B]: the very numbers of `seqgen.api.Model.nll`."""
    held_out = HeldOut(x, _repeated(context, len(x)), torch.arange(len(x)))
    parts = []
    for found in importance_chunks(model, held_out, num_samples, seed):
        if found is not None:
            parts.append(-found.bound)
        yield None
    return torch.cat(parts)


def fillings(
    model: SequentialModel, x: Tensor, missing: Tensor, context: Tensor | None, steps: int, seed: int
) -> Task:
    """States [B,H,W] of the chain of `seqgen.evaluation.imputation` after `steps`, and the mean of its last half.

    x [B,1,H,W] is filled where chains begin; `missing` is bool [H,W].
    """
    generator, total = torch.Generator().manual_seed(seed), torch.zeros_like(x)
    links = chain(model, x, missing, generator, _repeated(context, len(x)))
    for step in range(steps):
        link: Link = next(links)
        if step >= steps // 2:
            total += link.likelihood.mean
        yield None
    mean = torch.where(missing, total / (steps - steps // 2), x)
    return link.x.squeeze(1), mean.squeeze(1)


def noise_of(model: SequentialModel, count: int, seed: int) -> Tensor:
    """The noise of `count` drawings, [T,count,N] on the model's device, as `seqgen.api.Model` draws it from `seed`."""
    noise = model.noise(count, torch.Generator().manual_seed(seed))
    return noise.to(next(model.parameters()).device)


def _repeated(context: Tensor | None, count: int) -> Tensor | None:
    return None if context is None else context.expand(count, *context.shape[1:])


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
