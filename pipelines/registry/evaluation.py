"""The evaluation a version is registered with: its held-out bounds, and what they were measured on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqgen.core.errors import BadInput, OperationalError, changes

if TYPE_CHECKING:
    import torch

    from pipelines.artifacts.trained_model import TrainedModel


def comparable(trained: TrainedModel, images: int) -> dict[str, Any]:
    """What two evaluations must have in common for their bounds, on `images` images, to be paired."""
    return {
        "manifest_digest": trained.manifest().digest,
        "split": trained.recipe.evaluate.split,
        "binarise": trained.recipe.data.binarise,
        "seed": trained.recipe.evaluate.seed,
        "conditional": trained.recipe.model.conditional,
        "pairs": trained.recipe.train.pairs,
        "sample": "simple random",  # before there was this key: equally many images of every concept
        "images": images,
    }


@dataclass(frozen=True)
class Evaluation:
    """Held-out bounds of one model.

    data: what makes two evaluations comparable (`comparable`);
    bounds: float64 [images], the free energy F of every image in nats, lower is better;
    weights: sha256 of the weights that were measured.
    """

    data: dict[str, Any]
    bounds: torch.Tensor
    weights: str = ""

    @classmethod
    def read(cls, directory: Path) -> Evaluation:
        """Read `evaluation.json` and `bounds.npy` of an evaluate directory. Raises OperationalError."""
        import numpy as np
        import torch

        try:
            data = json.loads((directory / "evaluation.json").read_text())
            bounds = torch.from_numpy(np.load(directory / "bounds.npy", allow_pickle=False)).double()
            data.pop("free_energy")
            weights = data.pop("weights")
            complete = bounds.shape == (data["images"],)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OperationalError(f"{directory}: no complete evaluation ({error}); evaluate again") from None
        if not complete:
            raise OperationalError(
                f"{directory}: {len(bounds)} bounds of {data['images']} images; evaluate again"
            )
        return cls(data, bounds, weights)

    def check(self, trained: TrainedModel, images: int) -> None:
        """Raise BadInput unless this is `trained`'s evaluation as its settings ask for it, on `images` images."""
        again = f"run `python -m pipelines.evaluate --recipe {trained.recipe.name}`"
        if self.weights != trained.weights:
            raise BadInput(
                f"{trained.places.evaluate}: measured on other weights than {trained.model}; {again}"
            )
        if changed := changes(self.data, comparable(trained, images)):
            raise BadInput(
                f"{trained.places.evaluate}: measured with other settings ({'; '.join(changed)}); "
                f"give the same --set, or {again}"
            )

    @cached_property
    def mean(self) -> float:
        """The bound in nats per image."""
        return self.bounds.mean().item()

    def differences(self, other: Evaluation) -> list[str]:
        """The keys in which the two evaluations' data differ; none: the bounds are paired, image by image."""
        return sorted(key for key in {*self.data, *other.data} if self.data.get(key) != other.data.get(key))
