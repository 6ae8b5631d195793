"""Measure bounds on train, valid and test alike."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.artifacts.one_shot import Entry, lines, write_table
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.measuring import (
    SPLITS,
    about_errors,
    entry_of,
    load_for_measuring,
    need_bits,
    whole_splits,
)

if TYPE_CHECKING:
    import torch

    from seqgen.evaluation.bounds import HeldOut

ImagesOption = Annotated[int, typer.Option("--images", min=2, help="Images of each split, at random.")]


@dataclass(frozen=True)
class _Measured:
    """One split's random images: each quantity's value of every image, in nats."""

    held_out: HeldOut
    values: dict[str, torch.Tensor]
    weighted: int  # on how many images the importance-weighted bound was measured


def gap(recipe: RecipeOption = None, settings: SetOption = None, images: ImagesOption = 2000) -> None:
    """Measure F and the importance-weighted bound on random images of train, valid and test, one context each.

    Beside them stands what a ten-neighbour pixel predictor pays for the same images: a gap that it shows, too, comes of
    images that are more complex. `evaluate.importance_samples` and `evaluate.importance_images` (of each split) are k
    and n of the weighted bound. Writes artifacts/<recipe>/one_shot/gap.json.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    need_bits(trained, "the pixel predictor")
    entries, about = measure_gap(trained, images)
    for line in lines(entries):
        print(line)
    path = write_table(trained, "gap", entries, about, "Train, validation and test alike")
    print(f"written: {path}")


def measure_gap(trained: TrainedModel, images: int) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The entries of the table and what they were measured with."""
    from seqgen.evaluation.comparison import Splits
    from seqgen.evaluation.errors import clustered

    measured = _measure(trained, images)
    k = trained.recipe.evaluate.importance_samples
    entries: dict[str, Entry] = {}
    for split, one in measured.items():
        for name, values in one.values.items():
            found = clustered(values, one.held_out.groups, one.held_out.alphabets)
            weighted = name == "iwae"
            count = one.weighted if weighted else len(one.held_out)
            entries[f"gap_{name}_{split}"] = entry_of(found, count, k=k if weighted else None)
    for before, after in itertools.pairwise(SPLITS):
        pair = measured[before], measured[after]
        held_out = [one.held_out for one in pair]
        splits = Splits(
            [len(one) for one in held_out],
            [one.groups for one in held_out],
            [one.alphabets for one in held_out],
        )
        for name in pair[0].values:
            found = splits.with_errors(splits.difference([one.values[name] for one in pair]))
            weighted = name == "iwae"
            count = sum(one.weighted if weighted else len(one.held_out) for one in pair)
            entries[f"gap_{name}_{after}_less_{before}"] = entry_of(found, count, k=k if weighted else None)
    about = {
        "options": f"--images {images}",
        "seed": trained.recipe.evaluate.seed,
        "notes": [
            "gap_free_energy_less_predictor: image by image, F less what the pixel predictor, fitted on train, pays",
            "gap_iwae: measured on fewer images, carried to the others by their difference to F",
        ],
        **{f"errors_{split}": about_errors(one.held_out) for split, one in measured.items()},
    }
    return entries, about


def _measure(trained: TrainedModel, images: int) -> dict[str, _Measured]:
    from seqgen.evaluation import bounds
    from seqgen.evaluation.errors import difference_values
    from seqgen.evaluation.neighbours import fit_pixel_predictor

    config = trained.recipe.evaluate
    model = load_for_measuring(trained)
    whole = whole_splits(trained)
    predictor = fit_pixel_predictor(whole["train"].x)
    chosen = {
        split: one.take(bounds.subset(len(one), images, config.seed, f"gap {split}"))
        for split, one in whole.items()
    }
    total = sum(
        len(one) + config.importance_samples * min(len(one), config.importance_images)
        for one in chosen.values()
    )
    print(f"gap: {', '.join(f'{len(one):,} images of {split}' for split, one in chosen.items())}", flush=True)
    found = {}
    with Display("passes") as display:
        advance = display.counter("gap", total)
        for split, one in chosen.items():
            free = bounds.free_energies(model, one, config.seed, advance).free_energy
            some = bounds.subset(len(one), config.importance_images, config.seed, "importance subset")
            weighted = bounds.importance_bounds(
                model, one.take(some), config.importance_samples, config.seed, advance
            )
            complexity = predictor.nats(one.x)
            values = {
                "free_energy": free,
                "iwae": difference_values(free, weighted, some),
                "pixel_predictor": complexity,
                "free_energy_less_predictor": free - complexity,
            }
            found[split] = _Measured(one, values, len(some))
    return found


if __name__ == "__main__":
    run(gap)
