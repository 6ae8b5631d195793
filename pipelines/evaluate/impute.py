"""Draw missing pixels anew, and score how they are predicted."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.artifacts.held_out import images_of
from pipelines.artifacts.one_shot import Entry, lines
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import check_stop, raise_on_stop
from pipelines.evaluate.figures import load_held_out, write_figure
from pipelines.evaluate.measuring import about_errors, entry_of, need_bits
from seqgen.core.errors import BadInput

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from seqgen.evaluation.bounds import HeldOut
    from seqgen.evaluation.imputation import Scores
    from seqgen.models import SequentialModel

TITLE = "Missing pixels"
MASKS = (
    "left, right, top, bottom, centre, random:0.8 (a share of the pixels) or a PNG file (white is missing)"
)
_STEPS = 50  # of the chain that is shown
_SHOWN = 10
MEANING = (
    "nll: -log m(x_missing | x_observed) of the chain's prediction, which is normalised, an honest code length",
    "marginals: the same of each missing pixel alone, summed; baseline: independent pixels of the training means",
    "gain: baseline less nll, image by image; per_pixel: divided by the number of missing pixels",
)


def impute(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    masks: Annotated[
        str, typer.Option("--masks", help=f"What is missing, separated by commas: {MASKS}.")
    ] = "left,bottom,centre,random:0.8",
    images: Annotated[int, typer.Option("--images", min=2, help="Images, at random.")] = 100,
    chains: Annotated[int, typer.Option("--chains", min=1, help="Chains of an image.")] = 32,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps before the first prediction.")] = 20,
    parts: Annotated[int, typer.Option("--parts", min=1, help="Parts that are predicted one by one.")] = 14,
    moves: Annotated[int, typer.Option("--moves", min=1, help="Steps after a part is revealed.")] = 2,
) -> None:
    """Draw the missing pixels of held-out images by the Markov chain through q(z | x) and p(x | z).

    The sheet shows ten images, the same for every mask; the numbers are nats an image of the true missing pixels, of
    --images images, beside those of independent pixels with the means of the training set. A mask takes images x
    chains x (steps + parts x moves) passes. Writes artifacts/<recipe>/one_shot/impute.png and impute.json.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    need_bits(trained, "the baseline of independent pixels")

    from seqgen.drawing.composing import stacked
    from seqgen.drawing.pictures import png
    from seqgen.evaluation import bounds, imputation
    from seqgen.evaluation.masks import label_of, missing_pixels

    seed, data = trained.recipe.evaluate.seed, trained.recipe.data
    manifest = trained.manifest()
    names = masks.split(",")
    if len({label_of(name) for name in names}) < len(names):
        raise BadInput(f"--masks={masks}: two of one name, as their numbers would be; rename one")
    named = {name: missing_pixels(name, manifest.height, manifest.width, seed) for name in names}
    model, everyone = load_held_out(trained)
    held_out = everyone.take(bounds.subset(len(everyone), images, seed, "impute"))
    training = bounds.hold_out(images_of(trained, "train"), data, False, seed).x
    means = imputation.pixel_means(training)
    effort = imputation.Effort(chains, steps, parts, moves)
    entries: dict[str, Entry] = {}
    with Display("passes") as display:
        advance = display.counter("impute", len(named) * effort.passes(len(held_out)))
        for name, missing in named.items():
            found = imputation.scores(model, held_out, means, missing, seed, effort, advance)
            baseline = imputation.score_of_means(means, held_out.x, missing)
            entries |= _entries(label_of(name), found, baseline, held_out, int(missing.sum()), chains)
            check_stop()
    shown = everyone.take(bounds.subset(len(everyone), _SHOWN, seed, "imputation shown"))
    sheets = [_sheet(trained, model, shown, means, name, missing) for name, missing in named.items()]
    for line in [*lines(entries), *MEANING]:
        print(line)
    about = {
        "options": f"--masks {shlex.quote(masks)} --images {images} --chains {chains} --steps {steps} "
        f"--parts {parts} --moves {moves}",
        "missing": {name: int(missing.sum()) for name, missing in named.items()},
        "notes": list(MEANING),
        **about_errors(held_out),
    }
    write_figure(trained, "impute.png", png(stacked(sheets)), TITLE, entries, about)


def _entries(
    label: str, found: Scores, baseline: Tensor, held_out: HeldOut, pixels: int, chains: int
) -> dict[str, Entry]:
    from seqgen.evaluation.errors import clustered

    def of(values: Tensor, k: int | None, unit: str = "nats") -> Entry:
        return entry_of(clustered(values, held_out.groups, held_out.alphabets), len(values), unit=unit, k=k)

    return {
        f"impute_{label}_nll": of(found.joint, chains),
        f"impute_{label}_marginals": of(found.marginals, chains),
        f"impute_{label}_baseline": of(baseline, None),
        f"impute_{label}_gain": of(baseline - found.joint, chains),
        f"impute_{label}_per_pixel": of(found.joint / pixels, chains, "nats a pixel"),
        f"impute_{label}_baseline_per_pixel": of(baseline / pixels, None, "nats a pixel"),
    }


def _sheet(
    trained: TrainedModel, model: SequentialModel, shown: HeldOut, means: Tensor, name: str, missing: Tensor
) -> Image.Image:
    import torch

    from seqgen.data.batches import generator_at
    from seqgen.drawing.latent_sheets import imputed
    from seqgen.evaluation.imputation import impute

    seed = trained.recipe.evaluate.seed
    device = next(model.parameters()).device
    x, missing = shown.x.to(device).float(), missing.to(device)
    context = None if shown.context is None else shown.context.to(device).float()
    start = torch.where(missing, means.to(device), x)
    generator = generator_at(torch.device("cpu"), seed, "imputation shown", name)
    found = impute(model, start, missing, _STEPS, generator, context)
    caption = (
        f"{trained.manifest().title}. In the frame: held-out images; what is veiled is missing. Start: each pixel's "
        "mean over the training images. A step: z drawn from q(z | x), then the missing pixels from p(x | z). Mean: "
        f"of p(x | z) over the last {_STEPS - _STEPS // 2} steps. Seed {seed}, not selected."
    )
    return imputed(x, missing, found, f"Missing pixels: {name}", caption)


if __name__ == "__main__":
    run(impute)
