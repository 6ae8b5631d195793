"""Classify Lake's 20 runs, 20 characters of one drawing each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.artifacts.one_shot import Entry, lines, write_table
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import check_stop, raise_on_stop
from pipelines.evaluate.kept import Kept
from pipelines.evaluate.measuring import entry_of, load_for_measuring
from pipelines.fetch import MirrorOption
from seqgen.core.errors import BadInput
from seqgen.settings import Recipe

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from seqgen.evaluation.classification import Evidence, Run
    from seqgen.models import SequentialModel

TITLE = "20-way one-shot classification, Lake's runs"
# Accuracies on these runs, in per cent.
PUBLISHED: tuple[dict[str, Any], ...] = (
    {"model": "people", "source": "Lake et al. 2015", "accuracy": 95.5},
    {"model": "BPL (strokes)", "source": "Lake et al. 2015", "accuracy": 96.7},
    {"model": "VHE", "source": "Hewitt et al. 2018", "accuracy": 81.3},
    {"model": "modified Hausdorff distance", "source": "Lake's demo", "accuracy": 61.2},
)
_DRAWER_PAIRS = 2  # runs of each background alphabet


def classify(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="k of the importance-weighted estimates, in each view.")
    ] = 10,
    mirror: MirrorOption = None,
) -> None:
    """Say which of 20 drawings shows the character of another one, 400 times, by the model's likelihoods.

    Which score is best is measured on characters of the training alphabets that were not trained on; that one is
    reported on Lake's runs beside the plain two-way score. The runs are fetched and verified when they are not here.
    What was measured of a run is kept below artifacts/<recipe>/one_shot/classify, and a second call goes on from there.
    Writes artifacts/<recipe>/one_shot/classify.json. At 28x28, k = 10 takes half an hour of one core, and more in
    proportion; a mean over views has 8 times k samples.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    _check(trained.recipe)
    with Display("bytes") as display:
        lake = lake_runs(trained, mirror or os.environ.get("SEQGEN_MIRROR") or None, display)
    entries, about = measure_accuracies(trained, lake, samples)
    about["options"] = f"--samples {samples}"
    published = [f"  {one['model']} ({one['source']}): {one['accuracy']} %" for one in PUBLISHED]
    for line in [*lines(entries), *about["notes"], *published]:
        print(line)
    print(f"written: {write_table(trained, 'classify', entries, about, TITLE)}")


def lake_runs(trained: TrainedModel, mirror: str | None, display: Display) -> list[Run]:
    """Lake's runs as the model's set has its drawings, fetched if they are not here.

    They lie beside what is made of them and not in raw/: that is what the stage fetch leaves, and with one file more in
    it `dvc repro` would fetch and shard again.
    """
    import torch

    from data_prep.fetch import fetch_file
    from data_prep.lake_runs import read_runs
    from data_prep.shrink import shrink
    from data_prep.sources import LAKE_RUNS
    from seqgen.evaluation.classification import Run

    path = fetch_file(
        LAKE_RUNS,
        trained.places.one_shot / "raw",
        mirror,
        notice=display.say,
        progress=lambda file, done, total: display.at(file.path, done, total),
    )
    data = trained.recipe.data

    def shrunk(drawings: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(shrink(drawings, data.side, data.rule))

    return [
        Run(one.name, shrunk(one.test), shrunk(one.training), torch.from_numpy(one.answers))
        for one in read_runs(path)
    ]


def measure_accuracies(
    trained: TrainedModel, lake: Sequence[Run], samples: int
) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The entries of the table and what they were measured with; goes on from what is kept."""
    import torch

    from seqgen.data.images import load_split
    from seqgen.evaluation import classification
    from seqgen.evaluation.errors import clustered

    seed = trained.recipe.evaluate.seed
    model = load_for_measuring(trained)
    train, valid = (load_split(trained.shards, split) for split in ("train", "valid"))
    background = classification.background_runs(train, valid, seed, _DRAWER_PAIRS)
    right_of = []
    with Display("passes") as display:
        for name, runs in (("background", background), ("lake", lake)):
            found = _evidence(trained, model, runs, samples, display, name)
            right_of.append(classification.right(runs, found))
    on_background, on_lake = right_of
    best = max(on_background, key=lambda name: on_background[name].mean().item())  # the first of equals

    def as_entry(right: Tensor, runs: Sequence[Run], alphabets: Sequence[int]) -> Entry:
        sizes = torch.tensor([len(run.test) for run in runs])
        groups = (torch.arange(len(runs)), torch.tensor(alphabets))
        return entry_of(
            clustered(100 * right, *(group.repeat_interleave(sizes) for group in groups)),
            len(right),
            unit="%",
            k=samples,
        )

    of_pairs = [number // 2 for number in range(len(lake))]  # two runs of an alphabet follow each other
    entries = {
        "lake_accuracy": as_entry(on_lake[classification.TWO_WAY], lake, of_pairs),
        "lake_accuracy_best": as_entry(on_lake[best], lake, of_pairs),
    }
    for name, right in on_lake.items():
        entries[f"lake_accuracy_{name}"] = as_entry(right, lake, of_pairs)
    of_background = [number // _DRAWER_PAIRS for number in range(len(background))]
    for name, right in on_background.items():
        entries[f"background_accuracy_{name}"] = as_entry(right, background, of_background)
    count = len(on_background[best])
    notes = [
        f"best: {best}, of {len(on_background)} scores the one with the most right of {count} decisions of "
        f"{len(background)} runs of background alphabets; Lake's runs chose nothing",
        f"k = {samples} for each log-likelihood, views: means over {classification.VIEWS} flips and transpositions, "
        f"each with its own {samples}",
        "log p(x'): "
        + (
            "with no context"
            if _has_null(trained.recipe)
            else "given each of the other 19 candidates, their mixture"
        ),
    ]
    about = {
        "best": best,
        "decisions": sum(len(run.test) for run in lake),
        "seed": seed,
        "published": list(PUBLISHED),
        "notes": notes,
        "errors": "se: clustered by run; se_by_alphabet: clustered by alphabet, of which Lake's runs have 10",
    }
    return entries, about


def _evidence(
    trained: TrainedModel,
    model: SequentialModel,
    runs: Sequence[Run],
    samples: int,
    display: Display,
    name: str,
) -> list[Evidence]:
    """What the model says of every run; each is kept when it is done. What is of other weights is removed."""
    import torch

    from seqgen.evaluation import classification

    null, seed = _has_null(trained.recipe), trained.recipe.evaluate.seed
    kept = Kept(trained.places.one_shot / "classify", trained.weights[:16], f"seed{seed}-k{samples}")
    advance = display.counter(name, sum(classification.passes(run, samples, null) for run in runs))
    found = []
    for of_run in runs:
        n, m = len(of_run.test), len(of_run.training)
        values = kept.read(of_run.name, classification.VIEWS)
        if values.shape == (classification.VIEWS, 2 * n + 1, m):
            of_test, of_training, alone = values.split([n, n, 1], dim=1)
            found.append(classification.Evidence(of_test, of_training, alone.squeeze(1)))
            advance(classification.passes(of_run, samples, null))
            continue
        new = classification.evidence(model, of_run, samples, seed, null=null, advance=advance)
        kept.write(of_run.name, torch.cat([new.of_test, new.of_training, new.alone.unsqueeze(1)], 1))
        found.append(new)
        check_stop()
    return found


def _has_null(recipe: Recipe) -> bool:
    """Whether the model learned what to do with no context."""
    return 0 in recipe.train.contexts


def _check(recipe: Recipe) -> None:
    """Raise BadInput where Lake's runs say nothing of the model."""
    data = recipe.data
    if data.source != "omniglot":
        raise BadInput(
            f"{recipe.name}: data.source={data.source}: Lake's runs are drawings of Omniglot itself; use a recipe "
            "with data.source=omniglot"
        )
    if data.split != "30-20":
        raise BadInput(
            f"{recipe.name}: data.split={data.split} trains on characters that are in Lake's runs; use a recipe with "
            "data.split=30-20"
        )
    if not recipe.model.conditional:
        raise BadInput(f"{recipe.name}: model.conditional=false: there is no p(x | x'); use another recipe")
    if recipe.train.pairs != "character":
        raise BadInput(
            f"{recipe.name}: train.pairs={recipe.train.pairs}: x' is not a drawing of the character of x; use a "
            "recipe with train.pairs=character"
        )


if __name__ == "__main__":
    run(classify)
