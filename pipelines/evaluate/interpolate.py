"""Draw the way from one image to another through z."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from pipelines.artifacts.one_shot import lines
from pipelines.artifacts.trained_model import load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.figures import load_held_out, write_figure
from pipelines.evaluate.measuring import about_errors, entry_of

TITLE = "From one image to another"
_POINTS, _SHOWN = 9, 10
MEANING = (
    "free_energy_halfway: F of an image drawn from p(x | z), z halfway; free_energy_end: from p(x | z) at the first "
    "end; free_energy_mixed: F of an image of which each pixel is one end's or the other's, at random",
)


def interpolate(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    pairs: Annotated[int, typer.Option("--pairs", min=2, help="Pairs of images, at random.")] = 200,
) -> None:
    """Draw images on the way between held-out images, and measure how likely the model finds those halfway.

    Of a conditional model the ends of a way are two drawings of one character (or characters of one alphabet, by
    train.pairs), and a third is given. Writes artifacts/<recipe>/one_shot/interpolate.png and interpolate.json.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())

    import torch

    from seqgen.data.batches import generator_at
    from seqgen.drawing.latent_sheets import ways
    from seqgen.drawing.pictures import png
    from seqgen.evaluation import bounds, interpolation
    from seqgen.evaluation.errors import clustered
    from seqgen.evaluation.imputation import sample

    seed = trained.recipe.evaluate.seed
    model, everyone = load_held_out(trained, contexts=2)
    ends = interpolation.pick_ends(everyone, pairs, seed)
    walk = interpolation.walk(model, ends, seed)

    held_out = everyone.take(ends.chosen).with_contexts(1)
    generator = generator_at(torch.device("cpu"), seed, "interpolation drawn")
    device = next(model.parameters()).device
    images = {
        "end": sample(walk.at(0.0), generator, device),
        "halfway": sample(walk.at(0.5), generator, device),
        "mixed": interpolation.mixed_pixels(ends, seed),
    }
    entries = {}
    for name, x in images.items():
        of_image = replace(held_out, x=x.to("cpu", held_out.x.dtype))
        found = bounds.free_energies(model, of_image, seed, purpose=f"interpolation {name}").free_energy
        error = clustered(found, held_out.groups, held_out.alphabets)
        entries[f"interpolate_free_energy_{name}"] = entry_of(error, len(found))
    drawn = torch.stack([walk.at(point / (_POINTS - 1)).mean[:_SHOWN] for point in range(_POINTS)])
    given = "" if ends.context is None else "x' is the context of both ends, another of the same kind. "
    caption = (
        f"{trained.manifest().title}. On both sides held-out images x; between them {model.step.observation.pictures}, "
        f"c from a z drawn from q(z | x) of the one to one of the other, on a great circle. {given}Seed {seed}, not "
        "selected."
    )
    for line in [*lines(entries), *MEANING]:
        print(line)
    about = {"options": f"--pairs {pairs}", "notes": list(MEANING), **about_errors(held_out)}
    write_figure(trained, "interpolate.png", png(ways(ends, drawn, TITLE, caption)), TITLE, entries, about)


if __name__ == "__main__":
    run(interpolate)
