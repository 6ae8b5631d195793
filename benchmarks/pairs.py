"""Every member with every kind of every slot, trained for seconds or refused: `python -m benchmarks.pairs`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from benchmarks import page
from benchmarks.small_sets import independent_pixels, learned, small_split
from pipelines.evaluate.family import MEMBERS
from pipelines.recipes import choose, load_recipe
from seqgen.core.errors import BadInput
from seqgen.settings import Recipe
from seqgen.settings.kinds import names, within

OWN = "as its recipe says"
_MEMBERS = [member for member in MEMBERS if member != "sgm-local"]  # it is a pair of sgm's
_SMALL = {"binarized-mnist": ("mnist-5k", "threshold"), "multi-mnist": ("multi-mnist-5k", "static")}
# Of 4,000 images each; steps of layers cost a tenth of the others', convolutional ones ten times as much.
_EPOCHS = {"layers": 10, "convolutional": 1, "composited": 10}
_GREY = {"data.binarise": "grey"}
_LOGITS = {"model.canvas_channels": 1}
# What else a kind asks for, where a member's recipe says otherwise.
_WITH: dict[tuple[str, str], dict[str, Any]] = {
    ("observation", "gaussian"): _GREY,
    ("observation", "logit-normal"): _GREY,
    ("observation", "identity"): _LOGITS,
    ("observation", "autoregressive"): _LOGITS,
    ("latent", "bernoulli"): {"train.objective": "score-function"},
    ("latent", "gaussian"): {"train.objective": "pathwise"},
    ("attention", "error"): {"model.error_image": True},
    ("context", "attention"): {"model.conditional": True},
    ("objective", "iwae"): {"train.importance_samples": 2},
}


def small(member: str) -> Recipe:
    """A member's recipe, for a few real digits and a short training."""
    recipe = load_recipe(MEMBERS[member])
    source, binarise = _SMALL[recipe.data.source]
    short = {
        "data.source": source,
        "data.binarise": binarise,
        "train.epochs": _EPOCHS.get(recipe.model.step, 3),
        "train.workers": 1,
        "train.ema": 0.99,
        "train.warmup_steps": 20,
    }
    return choose(recipe, {**short, "train.evaluate_every": short["train.epochs"]}, member)


def changes(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is changed of a recipe, one thing at a time, and the settings that do it."""
    yield OWN, {}
    for steps in (1, 4):
        if steps != recipe.model.steps:
            yield f"T = {steps}", {"model.steps": steps}
    for key, own in _slots(recipe):
        slot = key.partition(".")[2]
        for kind in names(slot):
            if kind != own:
                yield f"{slot}: {kind}", {key: kind}


def _slots(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The slots that a member has beside its step, dotted, and the kind in each."""
    for section, slots in ((recipe.model, within(["step"])[1:]), (recipe.train, ["objective"])):
        name = "model" if section is recipe.model else "train"
        yield from ((f"{name}.{slot}", getattr(section, slot)) for slot in slots if hasattr(section, slot))


def changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with `settings` and what they bring along. Raises BadInput where they do not go together."""
    key, kind = next(iter(settings.items()), ("", ""))
    slot = key.partition(".")[2]
    with_it = _WITH.get((slot, kind), {})
    if (slot, kind) == ("transition", "latent"):
        with_it = {"model.hidden": recipe.model.latents}
    if not hasattr(recipe.model, "canvas_channels"):
        with_it = {name: value for name, value in with_it.items() if name != "model.canvas_channels"}
    return choose(recipe, {**with_it, **settings}, slot)


def measured(member: str, settings: Mapping[str, Any], before: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """F of a member so changed after its training, in nats; or why it is refused. `before` if that is of the same."""
    try:
        recipe = changed(small(member), settings)
    except BadInput as error:
        return {"refused": str(error).partition(": ")[2]}
    if before and before.get("settings_digest") == recipe.digest():
        return before
    split = small_split(recipe)
    began = time.process_time()
    bound = learned(recipe, split)
    return {
        "bound": bound,
        "independent_pixels": None if recipe.data.binarise == "grey" else independent_pixels(split),
        "images": recipe.train.epochs * (len(split[0]) // recipe.train.batch) * recipe.train.batch,
        "cpu_seconds": round(time.process_time() - began, 1),
        "settings_digest": recipe.digest(),
    }


def _table(results: Mapping[str, Mapping[str, Mapping[str, Any]]], machine: Mapping[str, Any]) -> str:
    rows = list(dict.fromkeys(change for of in results.values() for change in of))
    cells = [[f"`{change}`", *(_cell(of.get(change)) for of in results.values())] for change in rows]
    refusals = sorted({one["refused"] for of in results.values() for one in of.values() if "refused" in one})
    pixels = ", ".join(f"{member} {of[OWN]['independent_pixels']:.0f}" for member, of in results.items())
    images = ", ".join(f"{member} {of[OWN]['images']:,}" for member, of in results.items())
    return "\n\n".join(
        [
            page.table(["", *results], cells),
            f"Independent pixels pay: {pixels}. Images: {images}. {machine['chip']}, torch {machine['torch']}.",
            "What refusals say:",
            "\n".join(f"* {reason}" for reason in refusals),
        ]
    )


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "-"
    return "refused" if "refused" in one else f"{one['bound']:.0f}"


def main(arguments: list[str] | None = None) -> None:
    """Run what has no result yet, or one of other settings, and publish member by member."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=_MEMBERS, nargs="+", default=_MEMBERS, metavar="MEMBER")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = page.RESULTS / "pairs.json"
    results: dict[str, dict[str, Any]] = json.loads(path.read_text())["members"] if path.is_file() else {}
    for member in chosen.only:
        known, results[member] = results.get(member, {}), {}
        for change, settings in changes(small(member)):
            results[member][change] = measured(member, settings, known.get(change))
            print(f"{member}, {change}: {results[member][change]}", flush=True)
        ordered = {name: results[name] for name in _MEMBERS if name in results}
        made = {"machine": page.machine(torch.device("cpu")), "members": ordered}
        page.publish("pairs", made, _table(ordered, made["machine"]), to=page.DOCS / "pairs.md")


if __name__ == "__main__":
    page.run(main)
