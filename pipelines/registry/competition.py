"""What a candidate competes with: its bounds on `register.split`, and which of its images are independent."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pipelines.artifacts.held_out import evaluated_images
from pipelines.artifacts.trained_model import TrainedModel
from pipelines.registry.evaluation import Clusters, Evaluation, competing
from seqgen.core.errors import NumericalError

if TYPE_CHECKING:
    import torch

    from seqgen.data.manifest import Manifest
    from seqgen.evaluation.bounds import HeldOut
    from seqgen.models import SequentialModel


def competition(trained: TrainedModel) -> tuple[Evaluation, HeldOut]:
    """The trained model's bounds on `register.split`, and those images: as many, with the seed, as `evaluate` has."""
    split = trained.recipe.register_.split
    held_out = evaluated_images(trained, split=split)
    data = competing(trained, len(held_out))
    clusters = clusters_of(held_out, trained.manifest(), split)
    bounds = measured(trained.load(), held_out, trained.recipe.evaluate.seed)
    return Evaluation(data, bounds, trained.weights, clusters), held_out


def measured(model: SequentialModel, held_out: HeldOut, seed: int) -> torch.Tensor:
    """F of every image by the model, rounded as it is stored; on the GPU, if there is one.

    All NaN if one is not finite: such a model is registered, and never wins.
    """
    import torch

    from seqgen.evaluation.bounds import free_energies

    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    with suppress(NumericalError):
        return free_energies(model, held_out, seed).free_energy.float().double()
    return torch.full((len(held_out),), torch.nan, dtype=torch.float64)


def clusters_of(held_out: HeldOut, manifest: Manifest, split: str) -> Clusters | None:
    """By alphabet where the split's are new (two at least, none of train), else by character, else None."""
    from seqgen.evaluation.errors import cluster_count

    if held_out.groups is None:
        return None
    # A concept is called alphabet/character (data_prep.omniglot).
    of_split, of_train = (
        {concept.rpartition("/")[0] for concept in manifest.splits[each].concepts}
        for each in (split, "train")
    )
    if held_out.alphabets is not None and not of_split & of_train and cluster_count(held_out.alphabets) > 1:
        return Clusters("alphabet", held_out.alphabets)
    return Clusters("character", held_out.groups)
