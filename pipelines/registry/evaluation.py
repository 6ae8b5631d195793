"""An evaluation: held-out bounds, and what they were measured on; a version competes with one."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from seqgen.core.errors import BadInput, OperationalError, changes
from seqgen.core.files import canonical_digest, write_bytes, write_json

if TYPE_CHECKING:
    import torch

    from pipelines.artifacts.trained_model import TrainedModel
    from seqgen.data.manifest import Manifest

IMAGES = "images_digest"  # of `images_digest`, in an evaluation's data


def comparable(trained: TrainedModel, images: int) -> dict[str, Any]:
    """What the evaluate stage says its bounds, on `images` images, were measured on."""
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


def competing(trained: TrainedModel, images: int) -> dict[str, Any]:
    """What two evaluations on `register.split` must have in common for their bounds to be paired.

    Of the manifest that is the images of that split: shards that are added to train change nothing of it.
    """
    split = trained.recipe.register_.split
    data = comparable(trained, images) | {"split": split, IMAGES: images_digest(trained.manifest(), split)}
    del data["manifest_digest"]
    return data


def images_digest(manifest: Manifest, split: str) -> str:
    """The sha256 of a split's shards, in order; their bytes are a function of the images."""
    index = manifest.splits.get(split)
    return canonical_digest([shard.sha256 for shard in index.shards] if index else [])


class Clusters(NamedTuple):
    """Images that are no independent evidence: `ids` int64 [images], one for each `kind` (character, alphabet)."""

    kind: str
    ids: torch.Tensor


@dataclass(frozen=True)
class Evaluation:
    """Held-out bounds of one model.

    data: what makes two evaluations comparable (`competing`);
    bounds: float64 [images], the free energy F of every image in nats, lower is better;
    weights: sha256 of the weights that were measured;
    clusters: None where every image is evidence of its own.
    """

    data: dict[str, Any]
    bounds: torch.Tensor
    weights: str = ""
    clusters: Clusters | None = None

    @classmethod
    def read(cls, directory: Path) -> Evaluation:
        """Read the files of `write`, or of an evaluate directory. Raises OperationalError."""
        import numpy as np
        import torch

        def array(name: str) -> torch.Tensor:
            return torch.from_numpy(np.load(directory / name, allow_pickle=False))

        try:
            data = json.loads((directory / "evaluation.json").read_text())
            bounds = array("bounds.npy").double()
            data.pop("free_energy")
            weights, kind = data.pop("weights"), data.pop("clusters", None)
            clusters = Clusters(kind, array("clusters.npy").long()) if kind else None
            complete = bounds.shape == (data["images"],) and (
                not clusters or len(clusters.ids) == len(bounds)
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise OperationalError(f"{directory}: no complete evaluation ({error}); evaluate again") from None
        if not complete:
            raise OperationalError(
                f"{directory}: {len(bounds)} bounds of {data['images']} images; evaluate again"
            )
        return cls(data, bounds, weights, clusters)

    def write(self, directory: Path) -> None:
        """Write evaluation.json, bounds.npy and, with clusters, clusters.npy."""
        for name, values in self.arrays():
            write_bytes(directory / name, values)
        kind = self.clusters.kind if self.clusters else None
        about = {"weights": self.weights, "free_energy": self.mean, "clusters": kind}
        write_json(directory / "evaluation.json", self.data | about)

    def arrays(self) -> Iterator[tuple[str, bytes]]:
        """The files beside evaluation.json: (name, content)."""
        import numpy as np

        arrays = {"bounds.npy": self.bounds.float()}
        if self.clusters:
            arrays["clusters.npy"] = self.clusters.ids
        for name, values in arrays.items():
            stream = io.BytesIO()
            np.save(stream, values.numpy())
            yield name, stream.getvalue()

    def check(self, trained: TrainedModel, images: int) -> None:
        """Raise BadInput unless this is `trained`'s evaluation as its settings ask for it, on `images` images."""
        again = f"run `seqgen evaluate --recipe {trained.recipe.name}`"
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
