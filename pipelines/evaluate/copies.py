"""Measure whether samples are copies of training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.artifacts.held_out import images_of
from pipelines.artifacts.one_shot import lines
from pipelines.artifacts.trained_model import load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.figures import load_held_out, need_contexts, write_figure
from pipelines.evaluate.measuring import about_errors, entry_of, need_bits

if TYPE_CHECKING:
    from seqgen.evaluation.errors import Clustered

TITLE = "Samples, and people's drawings of the same characters, beside the nearest training image"
MEANING = (
    "copies: samples no farther from a training image than the 1 % (at_5: 5 %) of people's drawings that are nearest "
    "to one, with the errors of the difference to people's share; distances: pixels in which two images differ as a "
    "share of the ink of both, at the best shift by 1 pixel"
)
SamplesOption = Annotated[int, typer.Option("--samples", min=2, help="Samples, each of another context.")]


def copies(recipe: RecipeOption = None, settings: SetOption = None, samples: SamplesOption = 1000) -> None:
    """Compare samples with every training image: how many are nearer to one than 99 % of people's drawings are.

    Each sample is given the context of one held-out drawing; that drawing is the person's that it is compared with.
    Distances are the share of the ink of two images that they do not have in common, in percent.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    need_contexts(trained, "a sample beside its own context")
    need_bits(trained, "the distance in ink")

    from seqgen.drawing import one_shot
    from seqgen.drawing.pictures import png
    from seqgen.evaluation import bounds
    from seqgen.evaluation import copies as measures
    from seqgen.evaluation.errors import clustered

    seed, data = trained.recipe.evaluate.seed, trained.recipe.data
    model, everyone = load_held_out(trained)
    held_out = everyone.take(bounds.subset(len(everyone), samples, seed, "copies"))
    training = bounds.hold_out(images_of(trained, "train"), data, False, seed).x[:, 0]
    assert held_out.context is not None
    drawn = one_shot.draw(model, len(held_out), seed, "copies", held_out.context).gt(0.5).byte()
    device = next(model.parameters()).device
    ours, theirs = (measures.nearest(one[:, 0], training, device) for one in (drawn, held_out.x))

    clusters = held_out.groups, held_out.alphabets
    to_context = [measures.distances(one[:, 0], held_out.context[:, 0]) for one in (drawn, held_out.x)]
    found = {
        "copies": measures.share_of_copies(ours.distance, theirs.distance, 0.01, *clusters),
        "copies_at_5": measures.share_of_copies(ours.distance, theirs.distance, 0.05, *clusters),
        "nearest_distance_samples": clustered(ours.distance, *clusters),
        "nearest_distance_people": clustered(theirs.distance, *clusters),
        "context_distance_samples": clustered(to_context[0], *clusters),
        "context_distance_people": clustered(to_context[1], *clusters),
    }
    entries = {name: entry_of(_percent(one), len(held_out), unit="%") for name, one in found.items()}
    sheet = one_shot.beside_training(drawn, held_out, training, ours, theirs, trained.manifest().title, seed)
    for line in lines(entries):
        print(line)
    about = {
        "options": f"--samples {samples}",
        "training_images": len(training),
        "copies": MEANING,
        **about_errors(held_out),
    }
    write_figure(trained, "copies.png", png(sheet), TITLE, entries, about)


def _percent(share: Clustered) -> Clustered:
    by_alphabet = None if share.se_by_alphabet is None else 100 * share.se_by_alphabet
    return share._replace(value=100 * share.value, se=100 * share.se, se_by_alphabet=by_alphabet)


if __name__ == "__main__":
    run(copies)
