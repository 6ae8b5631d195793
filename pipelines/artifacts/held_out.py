"""The held-out images of a trained model as every measurement and figure takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.artifacts.trained_model import TrainedModel

if TYPE_CHECKING:
    from seqgen.data.images import ImageSet
    from seqgen.evaluation.bounds import HeldOut


def evaluated_images(trained: TrainedModel, contexts: int = 1, *, split: str | None = None) -> HeldOut:
    """`evaluate.images` of `split` (`evaluate.split`), a simple random sample of it all (all, if it has no more).

    An image's contexts are of the whole split, and the same in every sample.
    """
    from seqgen.evaluation.bounds import subset

    config = trained.recipe.evaluate
    whole = whole_split(trained, split or config.split, contexts)
    if config.images is None or config.images >= len(whole):
        return whole
    return whole.take(subset(len(whole), config.images, config.seed, "evaluated images"))


def whole_split(trained: TrainedModel, split: str, contexts: int = 1) -> HeldOut:
    """All images of a split as they are measured, each with its contexts if the model is given any."""
    return held_out_of(trained, images_of(trained, split), contexts)


def images_of(trained: TrainedModel, split: str) -> ImageSet:
    """A split of the shards that the model was trained on; mapped, where it is larger than memory."""
    from seqgen.data.images import load_split
    from seqgen.training.memory import image_memory

    return load_split(trained.shards, split, memory=image_memory())


def held_out_of(trained: TrainedModel, images: ImageSet, contexts: int) -> HeldOut:
    """`images` binarised and given contexts, from `evaluate.seed`, as the training had them."""
    from seqgen.evaluation.bounds import hold_out

    recipe = trained.recipe
    return hold_out(
        images,
        recipe.data,
        recipe.model.conditional,
        recipe.evaluate.seed,
        pairs=recipe.train.pairs,
        contexts=contexts,
    )
