"""Measure whether samples are copies of training images, and draw them beside the nearest."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.artifacts.figures import load_held_out, need_contexts
from pipelines.artifacts.one_shot import entry, lines, write_table
from pipelines.artifacts.trained_model import load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from seqgen.core.files import write_bytes

TITLE = "Samples, and people's drawings of the same characters, beside the nearest training image"
SamplesOption = Annotated[int, typer.Option("--samples", min=2, help="Samples, each of another context.")]


def copies(recipe: RecipeOption = None, settings: SetOption = None, samples: SamplesOption = 1000) -> None:
    """Compare samples with every training image: how many are nearer to one than 99 % of people's drawings are.

    Each sample is given the context of one held-out drawing; that drawing is the person's that it is compared with.
    Distances are the share of the ink of two images that they do not have in common, in percent.
    """
    trained = load_trained_model(recipe, settings or ())
    need_contexts(trained, "a sample beside its own context")

    from seqgen.data.images import load_split
    from seqgen.drawing import one_shot
    from seqgen.drawing.pictures import png
    from seqgen.evaluation import bounds
    from seqgen.evaluation import copies as measures
    from seqgen.training.memory import image_memory

    seed, data = trained.recipe.evaluate.seed, trained.recipe.data
    model, held_out = load_held_out(trained)
    images = load_split(trained.places.shards, "train", memory=image_memory())
    training = bounds.hold_out(images, data, False, seed).x[:, 0]
    chosen = bounds.subset(len(held_out), samples, seed, "copies")
    x, context = held_out.x[chosen], held_out.context[chosen]
    drawn = one_shot.draw(model, len(chosen), seed, "copies", context).gt(0.5).byte()
    device = next(model.parameters()).device
    ours, theirs = (measures.nearest(one[:, 0], training, device) for one in (drawn, x))

    groupings = [None if of is None else of[chosen] for of in (held_out.groups, held_out.alphabets)]

    def both(estimate, unit, **more):
        first = estimate(groupings[0])
        several = groupings[1] is not None and len(groupings[1].unique()) > 1
        by_alphabet = estimate(groupings[1]).se if several else None
        return entry(first.mean, first.se, len(chosen), unit="%", se_by_alphabet=by_alphabet)
