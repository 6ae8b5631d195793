"""What a model draws while it learns: samples of the same noise, and of the same contexts, each time."""

from __future__ import annotations

import numpy as np
import torch

from seqgen.data.batches import generator_at
from seqgen.evaluation.bounds import HeldOut, first_of_each, subset
from seqgen.models import SequentialModel

COUNT = 10


def shown(held_out: HeldOut | None, conditional: bool, seed: int) -> np.ndarray | None:
    """What a conditional model is shown: one held-out drawing each of `COUNT` concepts, uint8 [n,H,W]."""
    if not conditional or held_out is None:
        return None
    first = first_of_each(held_out.concepts)
    chosen = first[subset(len(first), min(COUNT, len(first)), seed, "pictures")]
    return _levels(held_out.x[chosen].float())


@torch.no_grad()
def drawings(model: SequentialModel, context: np.ndarray | None, seed: int) -> np.ndarray:
    """Means of p(x | c_T) of `COUNT` samples, or of one for each context, uint8 [n,H,W], 255 = ink."""
    device = next(model.parameters()).device
    count = COUNT if context is None else len(context)
    noise = model.noise(count, generator_at(torch.device("cpu"), seed, "learning")).to(device)
    given = None if context is None else torch.from_numpy(context / np.float32(255)).unsqueeze(1).to(device)
    return _levels(model.sample(noise, given))


def _levels(images: torch.Tensor) -> np.ndarray:
    return (images[:, 0].float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
