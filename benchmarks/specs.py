"""The models that are measured, each as a recipe with settings over it, and one as a workload on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.textbook import Textbook, textbook
from pipelines.recipes import load_recipe
from seqgen.models import SequentialModel, build
from seqgen.settings import Recipe

INK = 0.13  # MNIST's mean pixel
_SEED = 0


@dataclass(frozen=True)
class Specification:
    """A recipe and the settings (`a.b=c`) that differ from it; all sizes are the recipe's."""

    recipe: str
    settings: tuple[str, ...] = ()

    def resolved(self) -> Recipe:
        """The recipe with the settings. Raises BadInput."""
        return load_recipe(self.recipe, self.settings)


SPECIFICATIONS = {
    "draw-10": Specification("draw-mnist", ("model.steps=10",)),
    "draw-64": Specification("draw-mnist"),
    "sgm-10": Specification("sgm-mnist", ("model.steps=10",)),
    "sgm-80": Specification("sgm-mnist"),
    "sgm-52": Specification("sgm-omniglot-30-20", ("model.conditional=false",)),
    "sgm-52-conditional": Specification("sgm-omniglot-30-20"),
    "one-shot": Specification("one-shot", ("model.context=mean",)),
    "mnist-first": Specification("mnist-first"),
    "quickstart": Specification("quickstart"),
}


class Workload(NamedTuple):
    """A seqgen model, the textbook's with the same weights, and one batch: images, context [B,1,H,W], noise [T,B,K]."""

    recipe: Recipe
    model: SequentialModel
    plain: Textbook
    x: Tensor
    context: Tensor | None
    noise: Tensor


def workload(specification: Specification, batch: int, device: torch.device) -> Workload:
    """Fresh models and random images as dark as MNIST's, on `device`; the same in every process and on every device."""
    recipe = specification.resolved()
    torch.manual_seed(_SEED)
    model = build(recipe.model, recipe.data.side, recipe.data.side, INK)
    x = random_images(recipe, batch)
    context = random_images(recipe, batch) if recipe.model.conditional else None
    noise = model.noise(batch, torch.Generator().manual_seed(_SEED))
    return Workload(
        recipe,
        model.to(device),
        textbook(model).to(device),
        x.to(device),
        None if context is None else context.to(device),
        noise.to(device),
    )


def random_images(recipe: Recipe, count: int) -> Tensor:
    """float32 [count,1,H,W] in {0,1} from torch's generator."""
    return (torch.rand(count, 1, recipe.data.side, recipe.data.side) < INK).float()


def importance_noise(model: SequentialModel, images: int, samples: int, seed: int) -> Tensor:
    """The noise that `importance_weighted` draws from a generator of `seed`, [samples,T,images,K] on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([model.noise(samples, generator) for _ in range(images)], 2).transpose(0, 1)
