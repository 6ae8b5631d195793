"""The free energy F of eq. 8 where z is not differentiable: NVIL (Mnih & Gregor 2014)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seqgen.models import SequentialModel
from seqgen.models.contracts import Sizes
from seqgen.models.layers import Linear, LstmCell
from seqgen.objectives.contracts import Batch, Objective, Outcome, State

_DECAY = 0.9  # of the running mean and variance, a step


class ScoreFunction(Objective):
    """Minimises the mean of F; its gradient is the pathwise one where there is one, and elsewhere

        E[ sum_t (F_t - C_t) grad log q(z_t | z_{<t}, x) ],  F_t = sum_{s >= t} KL_s - log p(x | z):

    what came before t does not depend on z_t (NVIL's local signals). C_t is a learned baseline; what it leaves is
    centred by its running mean. NVIL's baseline sees the input of a layer; this one sees x and z_{<t}, as a chain of
    decisions wants (Eslami et al. 2016). With `normalise` the whole loss is divided by the running deviation of what is
    left, where that is above 1: NVIL divides that signal alone, but the KL here is in closed form and has a gradient
    of its own, which must keep its weight.
    """

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        self.rate = settings.baseline_rate
        self.baseline = Baseline(sizes, settings.baseline_hidden)

    def start(self) -> State:
        """Mean and mean square of what the baseline leaves at each t, [T], and how many steps they are of."""
        zero = torch.zeros(self.sizes.steps)
        return {"mean": zero, "square": zero.clone(), "steps": torch.zeros(())}

    def forward(self, model: SequentialModel, batch: Batch, state: State) -> Outcome:
        """Metrics: free_energy, kl, log_likelihood; signal, the deviation of what the baseline leaves, over all t."""
        bound = model(*batch)
        kl, log_likelihood = bound.kl.float(), bound.log_likelihood.float()
        free_energy = kl.sum(0) - log_likelihood
        loss = free_energy.mean()
        metrics = {
            "free_energy": loss,
            "kl": kl.sum(0).mean(),
            "log_likelihood": log_likelihood.mean(),
        }
        if bound.score is not None:
            to_come = (kl.flip(0).cumsum(0).flip(0) - log_likelihood).detach()
            expected = self.baseline(batch.x, bound.z.detach())
            left = (to_come - expected).detach()
            # By what was before this batch: it is the same on every rank, and does not know z. The first only measures.
            variance = (state["square"] - state["mean"].square()).clamp(min=0.0)
            signal = (left - state["mean"][:, None]) * (state["steps"] > 0)
            state = _updated(state, left)
            # The second term's gradient fits the baseline by least squares.
            loss = loss + (signal * (bound.score - expected)).sum(0).mean()
            deviation = variance.mean().sqrt()
            if self.settings.normalise:
                loss = loss / deviation.clamp(min=1.0)
            metrics["signal"] = deviation
        return Outcome(loss, {name: value.detach() for name, value in metrics.items()}, state)


def _updated(state: State, left: Tensor) -> State:
    """The running moments after `left` [T,B]; those of the first steps are plain means."""
    weight = 1 / (state["steps"] + 1).clamp(max=1 / (1 - _DECAY))
    return {
        "mean": torch.lerp(state["mean"], left.mean(1), weight),
        "square": torch.lerp(state["square"], left.square().mean(1), weight),
        "steps": state["steps"] + 1,
    }


class Baseline(nn.Module):
    """C_t(x, z_{<t}), [T,B]: an LSTM over [f(x) ; z_{t-1}], f(x) = tanh(W x + b)."""

    def __init__(self, sizes: Sizes, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.see = Linear(sizes.height * sizes.width, hidden)
        self.cell = LstmCell(hidden + sizes.latents, hidden)
        self.head = Linear(hidden, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """`x` [B,1,H,W], `z` [T,B,K]."""
        seen = self.see(x.flatten(1)).tanh()
        h = cell = seen.new_zeros(len(x), self.hidden)
        before, expected = torch.zeros_like(z[0]), []
        for z_t in z:
            h, cell = self.cell((seen, before), h, cell)
            expected.append(self.head(h).squeeze(1))
            before = z_t
        return torch.stack(expected)
