"""Measure how complex the images of each split are."""

from __future__ import annotations

from typing import Any

from pipelines.artifacts.one_shot import Entry, lines, write_table
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.measuring import about_errors, entry_of, load_for_measuring, need_bits, whole_splits


def complexity(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Set the model's F on the whole of valid and test beside what a ten-neighbour pixel predictor pays for them.

    The predictor (fitted on train) knows no alphabet and no context. Two answers: its own difference as a share of the
    model's, and the regression of F on it, image by image within the splits. Writes
    artifacts/<recipe>/one_shot/complexity.json.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    need_bits(trained, "the pixel predictor")
    entries, about = measure_complexity(trained)
    for line in lines(entries):
        print(line)
    path = write_table(trained, "complexity", entries, about, "A pixel predictor as the yardstick")
    print(f"written: {path}")


def measure_complexity(trained: TrainedModel) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The entries of the table and what they were measured with."""
    from seqgen.evaluation.bounds import free_energies
    from seqgen.evaluation.comparison import Splits, Statistic
    from seqgen.evaluation.errors import clustered
    from seqgen.evaluation.neighbours import fit_pixel_predictor

    config = trained.recipe.evaluate
    model = load_for_measuring(trained)
    whole = whole_splits(trained)
    predictor = fit_pixel_predictor(whole["train"].x)
    pays = {split: predictor.nats(one.x) for split, one in whole.items()}
    compared = whole["valid"], whole["test"]
    with Display("images") as display:
        advance = display.counter("complexity", sum(map(len, compared)))
        free = [free_energies(model, one, config.seed, advance).free_energy for one in compared]

    entries: dict[str, Entry] = {}
    for split, one in whole.items():
        found = clustered(pays[split], one.groups, one.alphabets)
        entries[f"pixel_predictor_{split}"] = entry_of(found, len(one))
    yardstick = [pays["valid"], pays["test"]]
    for split, one, values, cost in zip(("valid", "test"), compared, free, yardstick, strict=True):
        for name, of_images in (("free_energy", values), ("free_energy_less_predictor", values - cost)):
            entries[f"{name}_{split}"] = entry_of(clustered(of_images, one.groups, one.alphabets), len(one))

    splits = Splits(
        [len(one) for one in compared],
        [one.groups for one in compared],
        [one.alphabets for one in compared],
    )

    def add(name: str, statistic: Statistic, unit: str = "nats") -> None:
        entries[name] = entry_of(splits.with_errors(statistic), sum(map(len, compared)), unit=unit)

    measured, gauge = splits.difference(free), splits.difference(yardstick)
    slope = splits.slope(free, yardstick)
    add("free_energy_test_less_valid", measured)
    add("pixel_predictor_test_less_valid", gauge)
    add("share_explained", gauge / measured, "share")
    add("free_energy_less_predictor_test_less_valid", measured - gauge)
    add("slope", slope, "nats of F a nat of the predictor")
    add("explained_by_regression", slope * gauge)
    add("share_explained_by_regression", slope * gauge / measured, "share")
    add("left_by_regression", measured - slope * gauge)
    about = {
        "seed": config.seed,
        "notes": [
            "pixel predictor: p(pixel | its ten neighbours before it in raster order), a table fitted on train",
            "share_explained: the predictor's test less valid over the model's",
            "regression: F on the predictor's nats, image by image, one slope, a mean for each split; explained = "
            "slope times the predictor's difference, left = what images equal by the predictor differ by",
        ],
        **{f"errors_{split}": about_errors(one) for split, one in whole.items()},
    }
    return entries, about


if __name__ == "__main__":
    run(complexity)
