"""Kill a training's processes and check that it ends the same."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from typing import Annotated, get_args

import typer

from pipelines.artifacts.shards import checked_manifest
from pipelines.chaos.compared import WEIGHTS, compare, tracked
from pipelines.chaos.places import fresh_places
from pipelines.chaos.supervised import Supervised
from pipelines.cli.command import RecipeOption, SetOption
from pipelines.cli.signals import raise_on_stop
from pipelines.cluster.connect import connected, elsewhere
from pipelines.cluster.footprints import grown
from pipelines.cluster.killing import Killer, What
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import file_sha256, write_json

EveryOption = Annotated[float, typer.Option("--every", min=0, help="Seconds of training between two kills.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Draws the victims.")]
WhatOption = Annotated[str, typer.Option("--what", help="Of worker, all (workers) and driver, with commas.")]
KillsOption = Annotated[int | None, typer.Option("--kills", min=1, help="At most; then it may end in peace.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Same as --set train.workers=N.")]


def chaos(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    workers: WorkersOption = None,
    every: EveryOption = 30,
    seed: SeedOption = 0,
    what: WhatOption = "worker,all,driver",
    kills: KillsOption = None,
) -> None:
    """Train the recipe twice, once undisturbed and once while processes are killed, and compare the models' bits.

    On the cluster of RAY_ADDRESS, else on one of this machine. Both trainings have places of their own, and touch
    no other run, model or registry. Ends with 1 if they differ.
    """
    raise_on_stop()
    among = _parsed(what)
    assignments = [*(settings or ()), *([f"train.workers={workers}"] if workers else ())]
    wanted = load_recipe(recipe, assignments)
    checked_manifest(wanted)
    arguments = [*(["--recipe", recipe] if recipe else []), *(f"--set={text}" for text in assignments)]
    command = [sys.executable, "-m", "pipelines.train", *arguments]
    with fresh_places(wanted) as (calm, storm):
        print("undisturbed", flush=True)
        Supervised(calm, command).to_the_end()
        print(f"disturbed: a kill every {every:g} s of training ({what}), seed {seed}", flush=True)
        with connected() if elsewhere() else contextlib.nullcontext():
            disturbed = Supervised(storm, command)
            disturbed.killed_to_the_end(Killer(seed), among, every, kills)
        differences = [*compare(calm.train, storm.train), *tracked(storm.tracking)]
    held = {place.root.name: grown(place.footprints) for place in (calm, storm)}
    report = {
        "seed": seed,
        "every": every,
        "kills": disturbed.kills,
        "starts": disturbed.starts,
        "differences": differences,
        "held": held,
    }
    write_json(storm.root.parent / "report.json", report)
    counts = Counter(kill["what"] for kill in disturbed.kills)
    print(
        f"{len(disturbed.kills)} kills ({', '.join(f'{kind} {count}' for kind, count in counts.items()) or 'none'}), "
        f"{disturbed.starts} starts; written: {storm.root.parent / 'report.json'}"
    )
    for training, kinds in held.items():
        for kind, (first, last) in sorted(kinds.items()):
            print(f"{training}: a {kind} held {first.text} first and {last.text} last")
    if differences:
        raise OperationalError(f"not the same: {'; '.join(differences)}")
    print(
        f"the same bits as undisturbed: weights {file_sha256(storm.train / WEIGHTS)[:12]}; one run, no step twice"
    )


def _parsed(what: str) -> list[What]:
    found: list[What] = []
    for name in what.split(","):
        if name not in get_args(What):
            raise BadInput(f"--what {what}: {name!r} is none of {', '.join(get_args(What))}")
        found.append(name)  # type: ignore[arg-type]
    return found
