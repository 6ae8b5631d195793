"""The importance-weighted objective of Burda et al. 2015, for any member."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seqgen.models import SequentialModel
from seqgen.models.contracts import Sizes
from seqgen.objectives.contracts import Batch, Objective, Outcome, State
from seqgen.objectives.importance import log_importance_weights_and_score


class ImportanceWeighted(Objective):
    """Minimises -L_k, L_k = log (1/k) sum_i w_i with w_i = p(x, z_i) / q(z_i | x).

    Where no gradient flows through (part of) z it is VIMCO (Mnih & Rezende 2016): the score of sample j is weighted by
    how much L_k rises over what it would be with log w_j at the mean of the others'.
    """

    def __init__(self, settings: object, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        self.samples = self.settings.importance_samples

    def forward(self, model: SequentialModel, batch: Batch, state: State) -> Outcome:
        """Metrics: free_energy, which is -L_k here, and effective_samples, (sum w)^2 / sum w^2."""
        log_w, score = log_importance_weights_and_score(model, *batch)
        log_w = log_w.view(self.samples, -1)
        bound = log_w.logsumexp(0) - math.log(self.samples)
        loss = -bound.mean()
        if score is not None:
            signal = (bound - _left_out(log_w)).detach()
            loss = loss - (signal * score.sum(0).view(self.samples, -1)).sum(0).mean()
        effective = (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()
        metrics = {"free_energy": -bound.mean(), "effective_samples": effective.mean()}
        return Outcome(loss, {name: value.detach() for name, value in metrics.items()}, state)


def _left_out(log_w: Tensor) -> Tensor:
    """L_k with each log w_j in turn replaced by the mean of the others', [k,B] -> [k,B] (their eq. 8)."""
    k = len(log_w)
    others = (log_w.sum(0) - log_w) / (k - 1)
    replaced = torch.where(torch.eye(k, dtype=torch.bool, device=log_w.device)[:, :, None], others, log_w)
    return replaced.logsumexp(1) - math.log(k)
