"""How much each latent is used: its KL, and whether it is an active unit (Burda et al. 2015)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from seqgen.core.errors import BadInput
from seqgen.data.batches import generator_at
from seqgen.evaluation import bounds
from seqgen.models import SequentialModel

ACTIVE = 0.01  # Burda et al.'s threshold of a unit's activity


class LatentUse(NamedTuple):
    """Of every latent z_tk, float64 [T,K]: the mean over images of its KL in nats, and its activity."""

    kl: Tensor
    activity: Tensor


@torch.no_grad()
def latent_use(
    model: SequentialModel, held_out: bounds.HeldOut, seed: int, advance: bounds.Advance | None = None
) -> LatentUse | None:
    """KL and activity of every latent; None where q and p are no Normals of [T,B,K], of which both are defined.

    The KL is that of `bounds.free_energies`, from the same noise: over k it sums to the KL of the step. Activity is
    Var_x E[z_tk | x] over q. As q(z_t | z_<t, x) has a mean for each path z_<t, that is estimated without bias by the
    covariance over images of the means along two independent paths; the variance along one would take the path's
    noise for what x says.
    """
    count, totals = len(held_out), None
    if count < 2:
        raise BadInput(f"{count} images: whether latents are active is told from at least 2")
    device = next(model.parameters()).device
    for number, (x, context) in enumerate(held_out.chunks(bounds.CHUNK, device)):
        pairs = []
        for purpose in ("free energy", "second path"):
            noise = model.noise(len(x), generator_at(torch.device("cpu"), seed, purpose, number)).to(device)
            pairs.append(model.posterior_and_prior(x, context, noise))
        (q, p), (again, _) = pairs
        if not (isinstance(q, Normal) and isinstance(p, Normal) and isinstance(again, Normal)):
            return None
        first, second = q.mean.double(), again.mean.double()
        sums = [each.double().sum(1).cpu() for each in (kl_divergence(q, p), first, second, first * second)]
        totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
        if advance:
            advance(len(x))
    assert totals is not None
    kl, first, second, product = totals
    return LatentUse(kl / count, (product - first * second / count) / (count - 1))
