"""How the critics learn: episodes of random characters, and two views of a drawing that belong together."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqgen.core.errors import BadInput, NumericalError, OperationalError
from seqgen.core.files import canonical_digest, write_bytes
from seqgen.data.affine_maps import affine_maps
from seqgen.data.batches import generator_at
from seqgen.evaluation.recognition.networks import Embedding, Recogniser

Advance = Callable[[int], None]

_CPU = torch.device("cpu")
_TURN, _SHEAR, _STRETCH = math.radians(15), math.radians(10), math.log(1.33)
_SHIFT = 0.2  # half images
_INK = 0.4  # of a bilinear mean: above it no line of one pixel breaks
_QUARTERS = torch.tensor(
    [
        [[1.0, 0.0], [0.0, 1.0]],
        [[0.0, -1.0], [1.0, 0.0]],
        [[-1.0, 0.0], [0.0, -1.0]],
        [[0.0, 1.0], [-1.0, 0.0]],
    ]
)
_KEEP_EVERY = 250  # steps


@dataclass(frozen=True)
class Plan:
    """How long and on what the critics train: about 6 and 3 minutes of one core. Chosen on valid characters.

    An episode is `ways` classes with `drawings` each; a contrast is `batch` drawings, two views of each.
    """

    episodes: int = 3600
    ways: int = 30
    drawings: int = 4
    rate: float = 4e-3
    sharpness: float = 0.1
    contrasts: int = 900
    batch: int = 128
    contrast_rate: float = 1e-3
    temperature: float = 0.5

    def identity(self, data: str, seed: int) -> dict[str, Any]:
        """What decides the critics' weights, with the digest of the `data`."""
        return {"data": data, "seed": seed, **asdict(self)}


@dataclass(frozen=True)
class Keeper:
    """Where a training of `identity` keeps its whole state, and finds it when it is started again."""

    path: Path
    identity: str

    def save(self, step: int, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Keep the state after `step` steps, whole or not at all."""
        state = io.BytesIO()
        parts = {"network": network.state_dict(), "optimiser": optimiser.state_dict()}
        torch.save({"identity": self.identity, "step": step, **parts}, state)
        write_bytes(self.path, state.getvalue())

    def load(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Fill both with what was kept, if it is of this training; the steps that are done."""
        if not self.path.is_file():
            return 0
        try:
            state = torch.load(self.path, weights_only=True)
            if state["identity"] != self.identity:
                return 0
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
        except Exception as error:  # the unpickler of a damaged file raises anything
            raise OperationalError(f"{self.path}: damaged ({error}); remove it") from error
        return int(state["step"])


def train_recogniser(
    drawings: Tensor, plan: Plan, seed: int, keeper: Keeper | None = None, advance: Advance | None = None
) -> Recogniser:
    """A prototypical network (Snell et al. 2017) for 1-shot recognition, of `drawings` uint8 [C,n,H,W].

    A class is a character turned by a random multiple of 90 degrees; half of the drawings are warped a little. In an
    episode each drawing is in turn its class's only support: `one_shot_loss`.
    """
    classes, each = drawings.shape[:2]
    if classes < plan.ways or each < plan.drawings:
        raise BadInput(
            f"an episode has {plan.drawings} drawings of {plan.ways} characters, and there are {classes} with {each}"
        )
    network = _seeded(Recogniser, seed, "recogniser")

    def loss_at(step: int) -> Tensor:
        generator = generator_at(_CPU, seed, "episode", step)
        chosen = torch.randperm(classes, generator=generator)[: plan.ways, None]
        which = torch.rand(plan.ways, each, generator=generator).argsort(1)[:, : plan.drawings]
        maps = random_maps(which.numel(), generator, share=0.5, strength=0.7)
        quarter = torch.randint(0, 4, (plan.ways, 1), generator=generator).expand_as(which)
        images = warp(drawings[chosen, which].flatten(0, 1), _QUARTERS[quarter.flatten()] @ maps)
        return one_shot_loss(network(images).unflatten(0, which.shape), plan.sharpness)

    _fit(network, loss_at, plan.episodes, plan.rate, keeper, advance)
    return network


def train_embedding(
    drawings: Tensor, plan: Plan, seed: int, keeper: Keeper | None = None, advance: Advance | None = None
) -> Embedding:
    """SimCLR on `drawings` uint8 [C,n,H,W], whose characters it is not told: two warped views of a drawing belong
    together (`contrastive_loss`).
    """
    images = drawings.flatten(0, 1)
    if len(images) < plan.batch:
        raise BadInput(f"a contrast has {plan.batch} drawings, and there are {len(images)}")
    network = _seeded(Embedding, seed, "embedding")

    def loss_at(step: int) -> Tensor:
        generator = generator_at(_CPU, seed, "contrast", step)
        chosen = images[torch.randperm(len(images), generator=generator)[: plan.batch]].repeat(2, 1, 1)
        views = warp(chosen, random_maps(len(chosen), generator))
        return contrastive_loss(network.project(views), plan.temperature)

    _fit(network, loss_at, plan.contrasts, plan.contrast_rate, keeper, advance)
    network.standardise(images)
    return network


def one_shot_loss(features: Tensor, sharpness: float) -> Tensor:
    """The mean cross-entropy, in nats, of all 1-shot episodes in features [W,D,F] of W classes with D drawings.

    In the episode of (t, s) the s-th drawings are the support and the t-th, t != s, the queries, and a query's logits
    are -sharpness times its squared Euclidean distances to the support. `sharpness` keeps the first distances, sums
    over F features, from deciding everything at the start; it does not change which support is nearest.
    """
    ways, drawings = features.shape[:2]
    points = features.flatten(0, 1)
    squares = points.square().sum(1)
    distance = squares.unsqueeze(1) + squares - 2 * points @ points.T
    # [W,D,D,W]: the logits of drawing t of class w, in the episode of supports s.
    logits = -sharpness * distance.view(ways, drawings, ways, drawings).transpose(2, 3)
    pairs = ~torch.eye(drawings, dtype=torch.bool)
    target = torch.arange(ways).repeat_interleave(drawings * (drawings - 1))
    return functional.cross_entropy(logits[:, pairs].flatten(0, 1), target)


def contrastive_loss(projected: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020) in nats: projected [2B,F] of length 1; i and i + B are views of one drawing."""
    count = len(projected)
    logits = projected @ projected.T / temperature
    logits = logits.masked_fill(torch.eye(count, dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(logits, torch.arange(count).roll(count // 2))


def random_maps(count: int, generator: torch.Generator, share: float = 1.0, strength: float = 1.0) -> Tensor:
    """Affine maps [count,2,3] as `affine_grid` takes them, of which `share` is not the identity.

    At `strength` 1 as in Boutin et al.'s SimCLR: turned and sheared by up to 15 and 10 degrees, stretched by up to
    1.33 along each axis, moved by up to a tenth of the image.
    """
    warped = torch.rand(count, 1, generator=generator) < share
    amount = (torch.rand(count, 6, generator=generator) * 2 - 1) * warped * strength
    return affine_maps(
        _TURN * amount[:, 0],
        (_SHEAR * amount[:, 1]).tan(),
        _STRETCH * amount[:, 2:4],
        _SHIFT * amount[:, 4:],
    )


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """uint8 [B,H,W] in {0, 1} by `maps` [B,2,3], bits again: float32 [B,H,W] in {0, 1}, ink where above 0.4."""
    moved = images.float().unsqueeze(1)
    grid = functional.affine_grid(maps, list(moved.shape), align_corners=False)
    return functional.grid_sample(moved, grid, align_corners=False).squeeze(1).gt(_INK).float()


def keeper(directory: Path | None, critic: str, identity: dict[str, Any]) -> Keeper | None:
    """Where in `directory` the training of `critic` keeps its state; nowhere if that is None."""
    return None if directory is None else Keeper(directory / f"{critic}.pt", canonical_digest(identity))


def _seeded(make: type[nn.Module], seed: int, purpose: str) -> Any:
    """A network whose first weights depend on `seed` alone; the process's own random numbers go on as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_at(_CPU, seed, purpose).initial_seed())
        return make()


def _fit(
    network: nn.Module,
    loss_at: Callable[[int], Tensor],
    steps: int,
    rate: float,
    keeper: Keeper | None,
    advance: Advance | None,
) -> None:
    """Minimise `loss_at(step)`, a function of step and network alone, by Adam at a rate that falls to 0 by cosine."""
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    first = keeper.load(network, optimiser) if keeper else 0
    if advance and first:
        advance(first)
    network.train()
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        loss = loss_at(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % _KEEP_EVERY == 0 or step + 1 == steps:
            if not math.isfinite(loss.item()):
                raise NumericalError(f"the loss of a critic is {loss.item()} after {step + 1} steps")
            if keeper:
                keeper.save(step + 1, network, optimiser)
        if advance:
            advance(1)
    network.eval()
