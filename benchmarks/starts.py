"""Which start leaves the plateau, one change at a time: `python -m benchmarks.starts --kind gaussian`.

At first every pixel is drawn alike for all images (near 206 nats on static MNIST); how many steps until a model does
better depends on its start more than on anything else. Each run is a fixed number of steps from one seed, so it can be
made in parts: what is measured joins the results at once.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import page
from benchmarks.learning import Digits, digits
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from seqgen.data.batches import TrainingBatches, generator_at
from seqgen.models import SequentialModel, build
from seqgen.models.layers import LstmCell
from seqgen.models.steps.sequential import SequentialStep
from seqgen.objectives import Batch, Objective
from seqgen.settings import Recipe
from seqgen.settings.kinds import find
from seqgen.training.schedule import learning_rate

_CPU = torch.device("cpu")
LEFT = 180.0  # nats: below it the plateau is left
_LEFT_WINDOW, _FINAL_WINDOW = 20, 50  # steps that a running mean of F takes

# The rate is constant after its warm-up, so that the number of steps does not shape the curve.
_COMMON: dict[str, Any] = {"model.steps": 10, "train.batch": 100, "train.final_rate": 1.0}
_AFFINE = "mnist-first"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian": ("draw-first", _COMMON),
    "spatial-transformer": (_AFFINE, {**_COMMON, "model.canvas": "additive"}),
    "cgru": (_AFFINE, _COMMON),
    "gaussian-cgru": (_AFFINE, {**_COMMON, "model.attention": "gaussian"}),
    "full": (_AFFINE, {**_COMMON, "model.attention": "full", "model.canvas": "additive"}),
    "full-cgru": (_AFFINE, {**_COMMON, "model.attention": "full"}),
}
_CGRU = ("cgru", "gaussian-cgru", "full-cgru")
_GAUSSIAN = ("gaussian", "gaussian-cgru")
_WINDOWS = ("gaussian", "spatial-transformer", "cgru", "gaussian-cgru")
_CONVOLVED = tuple(kind for kind in KINDS if kind != "gaussian")  # f_o is a convolution

Alter = Callable[[SequentialStep], None]


def _unaltered(step: SequentialStep) -> None:
    """The start as it is."""


@dataclass(frozen=True)
class Change:
    """One thing that differs: settings of the recipe (dotted), Adam's beta2, or the weights of a fresh step."""

    what: str
    alter: Alter = _unaltered
    settings: Mapping[str, Any] = field(default_factory=dict)
    beta2: float = 0.999
    kinds: tuple[str, ...] = tuple(KINDS)


def _windows(step: SequentialStep, part: str = "") -> list[nn.Linear]:
    """The linear maps from h to window parameters, of the reader, the writer or (by default) both."""
    named = step.named_modules()
    heads = (m for name, m in named if name.startswith(part) and name.endswith(("window", "window.head")))
    return [head for head in heads if isinstance(head, nn.Linear)]


def _linear(step: SequentialStep, name: str) -> nn.Linear | nn.Conv2d:
    module = step.get_submodule(name)
    assert isinstance(module, nn.Linear | nn.Conv2d)
    return module


def _bias(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer.bias, torch.Tensor)
    return layer.bias


def torch_windows(step: SequentialStep) -> None:
    """Window heads as torch starts a linear map."""
    for head in _windows(step):
        head.reset_parameters()


def window_weights(factor: float) -> Alter:
    """Windows that look at h more, or less."""

    def alter(step: SequentialStep) -> None:
        for head in _windows(step):
            head.weight.mul_(factor)

    return alter


def filter_width(factor: float | None) -> Alter:
    """Gaussian filters `factor` times as wide; None: sigma = 1 pixel."""

    def alter(step: SequentialStep) -> None:
        for head in _windows(step):
            head.bias[2] = 0.0 if factor is None else head.bias[2] + 2 * math.log(factor)

    return alter


def plain_writer_gain(step: SequentialStep) -> None:
    """gamma = 1 in the Gaussian writer: a patch's value is spread thin over the pixels of its stride."""
    for head in _windows(step, "writer"):
        head.bias[4] = 0.0


def writer_gain(factor: float) -> Alter:
    """What is written, `factor` times as strong."""

    def alter(step: SequentialStep) -> None:
        sprite = _linear(step, "writer.sprite")
        sprite.weight.mul_(factor)
        _bias(sprite).mul_(factor)

    return alter


def zero_output_bias(step: SequentialStep) -> None:
    """An image that starts grey: logits 0, not the mean pixel's."""
    step.canvas0.zero_()
    if "observation.conv.bias" in dict(step.named_parameters()):
        _bias(_linear(step, "observation.conv")).zero_()


def observation_weights(factor: float) -> Alter:
    """f_o's weights times `factor`."""
    return lambda step: _scale(_linear(step, "observation.conv"), factor)


def torch_cgru(step: SequentialStep) -> None:
    """The CGRU's convolutions as torch starts them."""
    for name in ("canvas.gates", "canvas.candidate"):
        _linear(step, name).reset_parameters()


def cgru_keep(bias: float) -> Alter:
    """The update gate's bias: how much of the canvas is kept at first."""

    def alter(step: SequentialStep) -> None:
        gates = _bias(_linear(step, "canvas.gates"))
        gates[: len(gates) // 2] = bias

    return alter


def posterior_near_prior(step: SequentialStep) -> None:
    """The posterior's head a tenth of torch's, without a bias: q begins near the prior."""
    head = _linear(step, "posterior.head")
    head.weight.mul_(0.1)
    _bias(head).zero_()


def latent_weights(factor: float) -> Alter:
    """The LSTM's weights of z times `factor`."""

    def alter(step: SequentialStep) -> None:
        _linear(step, "transition.cell.linear").weight[:, : step.sizes.latents].mul_(factor)

    return alter


def zero_forget_bias(step: SequentialStep) -> None:
    """LSTMs that forget half at first."""
    for module in step.modules():
        if isinstance(module, LstmCell):
            hidden = module.linear.out_features // 4
            module.linear.bias[hidden : 2 * hidden] = 0.0


def signal(factor: float) -> Alter:
    """The LSTM's weights of z, and what is written, times `factor`."""

    def alter(step: SequentialStep) -> None:
        latent_weights(factor)(step)
        writer_gain(factor)(step)

    return alter


def _scale(layer: nn.Linear | nn.Conv2d, factor: float) -> None:
    layer.weight.mul_(factor)


DEFAULT = "as it is"
CHANGES: dict[str, Change] = {
    DEFAULT: Change("the library's start, the recipe's settings"),
    # What the library does, undone.
    "windows-torch": Change("window heads as torch starts them", torch_windows, kinds=_WINDOWS),
    "windows-narrow": Change("filters of sigma 1", filter_width(None), kinds=_GAUSSIAN),
    "writer-gamma-1": Change("writer's gamma starts at 1", plain_writer_gain, kinds=_GAUSSIAN),
    "output-bias-0": Change("output starts at 1/2, not at the mean pixel", zero_output_bias),
    "observation-torch": Change(
        "f_o's weights as torch's, 1/6", observation_weights(1 / 6), kinds=_CONVOLVED
    ),
    "cgru-torch": Change("the CGRU as torch starts it", torch_cgru, kinds=_CGRU),
    "cgru-keep-0": Change("the CGRU's keep bias 0, not 2", cgru_keep(0.0), kinds=_CGRU),
    "forget-0": Change("LSTM forget biases 0, not 1", zero_forget_bias),
    "rate-1e-3": Change("rate 1e-3", settings={"train.learning_rate": 1e-3}),
    "warmup-200": Change("warm-up of 200 steps", settings={"train.warmup_steps": 200}),
    "clip-1": Change("gradients clipped at 1", settings={"train.clip": 1.0}),
    "sigma-double": Change("filters twice as wide", filter_width(2.0), kinds=_GAUSSIAN),
    "write-5": Change(
        "sprite 5x5, as DRAW's paper has it", settings={"model.write_size": 5}, kinds=_GAUSSIAN
    ),
    # What is not done.
    "loud": Change("weights of z, and writes, x3", signal(3.0)),
    "posterior-near-prior": Change("posterior head a tenth of torch's, no bias", posterior_near_prior),
    "rate-6e-3": Change("rate 6e-3", settings={"train.learning_rate": 6e-3}),
    "beta2-0.99": Change("Adam's beta2 0.99", beta2=0.99),
    "kl-warmup-300": Change("KL's weight rises over 300 steps", settings={"train.kl_warmup_steps": 300}),
    "windows-x10": Change("window heads' weights x10: torch's", window_weights(10.0), kinds=_WINDOWS),
}


def recipe_of(kind: str, change: Change) -> Recipe:
    """The settings of a kind with a change's over them."""
    name, settings = KINDS[kind]
    return load_recipe(name, [f"{key}={value}" for key, value in {**settings, **change.settings}.items()])


def fresh(recipe: Recipe, change: Change, digits: Digits, seed: int) -> SequentialModel:
    """A model at its start from `seed`, altered."""
    torch.manual_seed(seed)
    model = build(recipe.model, digits.train.height, digits.train.width, digits.mean)
    assert isinstance(model.step, SequentialStep)
    with torch.no_grad():
        change.alter(model.step)
    return model


def free_energies(recipe: Recipe, change: Change, digits: Digits, seed: int, steps: int) -> list[float]:
    """F of every step's batch in nats, KL weight 1; shorter than `steps` if the gradient left the finite numbers.

    The steps are those of `fit`, which gives only an epoch's mean and has no other beta2.
    """
    model, config = fresh(recipe, change, digits, seed), recipe.train
    batches = TrainingBatches(digits.train, recipe.data, config.batch, conditional=False, seed=seed)
    objective: Objective = find("objective", config.objective).load()(config.of("objective"), model.sizes)
    parameters = list(model.parameters())
    optimiser = torch.optim.Adam(parameters, config.learning_rate, (0.9, change.beta2), fused=True)
    history, state = [], objective.start()
    for step in range(steps):
        position = divmod(step, batches.steps)
        noise = model.noise(config.batch, generator_at(_CPU, seed, "noise", *position))
        loss, metrics, state = objective(model, Batch(*batches.at(*position), noise), state)
        optimiser.zero_grad()
        loss.backward()
        if not math.isfinite(float(nn.utils.clip_grad_norm_(parameters, config.clip))):
            break
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, config)
        optimiser.step()
        history.append(float(metrics["free_energy"]))
    return history


def outcome(history: list[float], steps: int) -> dict[str, float | None]:
    """`left`: the step by which the mean of the last 20 F was below 180 nats; `free_energy`: the mean of the last 50.

    None where that never happened.
    """
    sums = [0.0]
    for value in history:
        sums.append(sums[-1] + value)
    w = _LEFT_WINDOW
    left = next((n for n in range(w, len(sums)) if sums[n] - sums[n - w] < w * LEFT), None)
    final = statistics.fmean(history[-_FINAL_WINDOW:]) if len(history) == steps else None
    return {"left": left, "free_energy": final}


def join(kind: str, name: str, seed: int, steps: int, measured: dict[str, float | None]) -> None:
    """Put one run into the results and the table. Raises BadInput if they are of another number of steps."""
    path = page.RESULTS / "starts.json"
    empty: dict[str, Any] = {"steps": steps, "runs": []}
    result = json.loads(path.read_text()) if path.is_file() else empty
    if result["steps"] != steps:
        raise BadInput(f"{path}: holds runs of {result['steps']} steps, not --steps {steps}; remove it first")
    key = {"kind": kind, "change": name, "seed": seed}
    others = [run for run in result["runs"] if {k: run[k] for k in key} != key]
    made = {"command": page.command(), "machine": page.machine(_CPU)}
    result["runs"] = [*others, {**key, **measured, **made}]
    page.publish("starts", result, _section(result["runs"], steps))


def _section(runs: list[dict[str, Any]], steps: int) -> str:
    kinds = [kind for kind in KINDS if any(run["kind"] == kind for run in runs)]
    rows = []
    for name, change in CHANGES.items():
        cells = [
            _cell([run for run in runs if run["kind"] == kind and run["change"] == name], steps)
            for kind in kinds
        ]
        if any(cells):
            rows.append([f"`{name}`", change.what, *(cell or "-" for cell in cells)])
    commands = sorted({run["command"] for run in runs})
    machines = sorted({f"{run['machine']['chip']}, torch {run['machine']['torch']}" for run in runs})
    caption = (
        f"Steps until F (mean of {_LEFT_WINDOW} batches) is below {LEFT:.0f} nats, the median of the seeds; F after "
        f"{steps} steps (mean of {_FINAL_WINDOW} batches), mean ± standard deviation over the seeds. "
        f"T = {_COMMON['model.steps']}, batch {_COMMON['train.batch']}, one thread. `gaussian`, `spatial-transformer` "
        "and `full` draw on an additive canvas, `cgru` is the spatial transformer with the CGRU."
    )
    made = "; ".join([f"`{command}`" for command in commands] + machines)
    return "\n\n".join([page.table(["change", "what", *kinds], rows), caption, f"{made}."])


def _cell(runs: list[dict[str, Any]], steps: int) -> str:
    if not runs:
        return ""
    # Never left counts as later than any step.
    left = statistics.median_high([math.inf if run["left"] is None else run["left"] for run in runs])
    when = f"> {steps}" if math.isinf(left) else f"{left:.0f}"
    final = [run["free_energy"] for run in runs]
    if None in final:
        return f"{when}; diverged"
    spread = f" ± {statistics.stdev(final):.1f}" if len(final) > 1 else ""
    return f"{when}; {statistics.fmean(final):.1f}{spread}"


def main(arguments: list[str] | None = None) -> None:
    """Make the runs asked for and publish each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=CHANGES, nargs="+", default=list(CHANGES), metavar="CHANGE")
    parser.add_argument("--data", type=Path, help="a sharded binary set; default: the recipe's artifacts")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    images = digits(chosen.data)
    for name in chosen.only:
        change = CHANGES[name]
        if chosen.kind not in change.kinds:
            continue
        recipe = recipe_of(chosen.kind, change)
        for seed in chosen.seeds:
            history = free_energies(recipe, change, images, seed, chosen.steps)
            measured = outcome(history, chosen.steps)
            print(f"{chosen.kind}, {name}, seed {seed}: {measured}", flush=True)
            join(chosen.kind, name, seed, chosen.steps, measured)


if __name__ == "__main__":
    page.run(main)
