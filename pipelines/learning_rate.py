"""Suggest a learning rate: train a few steps while it grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines.artifacts.places import places
from pipelines.artifacts.shards import checked_manifest, shards_of
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import raise_on_stop
from pipelines.recipes import load_recipe
from seqgen.core.errors import NumericalError, StoppedEarly
from seqgen.core.files import write_bytes, write_json
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe, build_recipe

if TYPE_CHECKING:
    from seqgen.training.range_test import Curve, RangeTest

StepsOption = Annotated[
    int, typer.Option("--steps", min=50, help="Steps from the lowest rate to the highest.")
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto: a GPU if there is one.")
]
_SHOWN = 2  # lines of the table for every tenfold rate


def learning_rate(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    steps: StepsOption = 200,
    device: DeviceOption = "auto",
) -> None:
    """Train a few steps here while the rate grows from 1e-6 to 1; say where the loss falls fastest.

    Smith's range test (2017), with the recipe's objective, clip and batch. Nothing is kept of the model. Writes
    artifacts/<recipe>/learning-rate.json and .png.
    """
    from seqgen.drawing.curves import rate_curve
    from seqgen.training.range_test import RangeTest

    raise_on_stop()
    asked = load_recipe(recipe, settings or ())
    test = RangeTest(steps)
    _train(_alone(asked, checked_manifest(asked), steps), test, device)
    curve, path = test.curve, places(asked).learning_rate
    if not curve.losses:
        raise NumericalError("the loss of the first step is not finite")
    suggestion = curve.suggestion
    write_json(
        path,
        {
            "settings_digest": asked.digest(),
            "seed": asked.train.seed,
            "suggestion": suggestion,
            "rates": curve.rates,
            **asdict(curve),
        },
    )
    picture = rate_curve(curve.rates, curve.losses, curve.smoothed, suggestion)
    write_bytes(path.with_suffix(".png"), picture)
    for line in _table(curve):
        print(line)
    print(f"curve: {path} and {path.with_suffix('.png').name}")
    if suggestion is None:
        raise NumericalError(
            f"the loss falls by less than three times what single steps differ by, {curve.noise:.3g} nats: "
            f"no rate to suggest; give more --steps than {steps}, or a larger train.batch than {asked.train.batch}"
        )
    print(f"the loss falls fastest at {suggestion:.2g}: --set train.learning_rate={suggestion:.2g}")


def _alone(recipe: Recipe, manifest: Manifest, steps: int) -> Recipe:
    """The recipe for this process alone, with no look at held-out images and epochs enough for the steps."""
    tree = recipe.given()
    epochs = max(recipe.train.epochs, -(-steps // (manifest.splits["train"].images // recipe.train.batch)))
    tree["train"] |= {
        "workers": 1,
        "fewest_workers": None,
        "epochs": epochs,
        "evaluate_every": epochs,
        "max_skipped": steps,  # one ends the test
    }
    tree["search"] = None
    return build_recipe(tree, recipe.name)


def _train(recipe: Recipe, test: RangeTest, device: Literal["auto", "cpu", "cuda"]) -> None:
    """Train until the test has ended."""
    import torch

    from seqgen import training
    from seqgen.training.resources import device_for, this_machine

    group = training.ProcessGroup(device=torch.device(device_for(recipe, this_machine(), device)))
    with Display("steps") as display:
        advance = display.counter("range test", test.curve.steps)

        class Shown(training.Callback):
            def step(self, metrics: Mapping[str, Any]) -> None:
                advance(1)

        try:
            training.run(
                recipe, shards_of(recipe), group=group, callbacks=[test, Shown()], schedule=test.rate
            )
        except StoppedEarly:
            if not test.curve.ended:  # by a signal
                raise


def _table(curve: Curve) -> list[str]:
    """The smoothed loss at some of the rates, and how the test ended."""
    lines = ["learning rate  loss, smoothed, nats per image"]
    shown = -1
    for rate, loss in zip(curve.rates, curve.smoothed, strict=True):
        place = math.floor(_SHOWN * math.log10(rate) + 1e-9)
        if place != shown:
            lines.append(f"{rate:13.1e}  {loss:.2f}")
            shown = place
    last = curve.rates[-1]
    ends = {
        "complete": f"the loss stayed finite up to {last:.2g}",
        "diverged": f"the loss diverged at {last:.2g}",
        "not finite": f"no longer finite after {last:.2g}",
    }
    return [*lines, ends[curve.ended]]


if __name__ == "__main__":
    run(learning_rate)
