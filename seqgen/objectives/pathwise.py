"""The free energy F of eq. 8 with the pathwise gradient, one posterior sample an image (sec. 3.2.2)."""

from __future__ import annotations

import torch

from seqgen.models import SequentialModel
from seqgen.objectives.contracts import Batch, Objective, Outcome, State


class Pathwise(Objective):
    """Minimises the mean of F = sum_t KL_t - log p(x | z), the KL weighted by a share that rises to 1 at first."""

    def start(self) -> State:
        """How many steps were taken."""
        return {"step": torch.zeros((), dtype=torch.int64)}

    def forward(self, model: SequentialModel, batch: Batch, state: State) -> Outcome:
        """Metrics: free_energy (unweighted), kl and log_likelihood."""
        bound = model(*batch)
        kl, log_likelihood = bound.kl.float().sum(0), bound.log_likelihood.float()
        step, rise = state["step"] + 1, self.settings.kl_warmup_steps
        weight = (step / rise).clamp(max=1.0) if rise else 1.0
        metrics = {
            "free_energy": (kl - log_likelihood).mean(),
            "kl": kl.mean(),
            "log_likelihood": log_likelihood.mean(),
        }
        return Outcome(
            (weight * kl - log_likelihood).mean(),
            {name: value.detach() for name, value in metrics.items()},
            {"step": step},
        )
