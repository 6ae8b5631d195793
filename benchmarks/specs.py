"""The models that are measured, each as a recipe with settings over it, and one as a workload on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.textbook import TextbookDraw, TextbookSgm, textbook
from pipelines.recipes import load_recipe
from seqgen.models import SequentialGenerator, build
from seqgen.settings import Recipe

_INK = 0.13  # MNIST's mean pixel
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
    "sgm-80": Specification("sgm-mnist"),
    "sgm-52": Specification("sgm-omniglot-30-20", ("model.conditional=false",)),
    "sgm-52-conditional": Specification("sgm-omniglot-30-20"),
}


class Workload(NamedTuple):
    """A seqgen model, the textbook's with the same weights, and one batch: images, context [B,1,H,W], noise [T,B,K]."""

    recipe: Recipe
    model: SequentialGenerator
    plain: TextbookDraw | TextbookSgm
    x: Tensor
    context: Tensor | None
    noise: Tensor


def workload(specification: Specification, batch: int, device: torch.device) -> Workload:
    """Fresh models and random images as dark as MNIST's, on `device`; the same in every process and on every device."""
    recipe = specification.resolved()
    torch.manual_seed(_SEED)
    model = build(recipe.model, recipe.data.size, recipe.data.size, _INK)
    x = random_images(recipe, batch)
    context = random_images(recipe, batch) if recipe.model.conditional else None
    noise = torch.randn(model.noise_shape(batch))
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
    return (torch.rand(count, 1, recipe.data.size, recipe.data.size) < _INK).float()


def importance_noise(model: SequentialGenerator, images: int, samples: int, seed: int) -> Tensor:
    """The noise that `importance_weighted` draws from a generator of `seed`, [samples,T,images,K] on the CPU."""
    steps, _, latents = model.noise_shape(1)
    generator = torch.Generator().manual_seed(seed)
    each = [torch.randn(samples, steps, latents, generator=generator) for _ in range(images)]
    return torch.stack(each, 2)
