"""Measure -log p(x | x'_1 ... x'_n) by the number of contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.artifacts.held_out import whole_split
from pipelines.artifacts.one_shot import Entry, lines, write_table
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import check_stop, raise_on_stop
from pipelines.evaluate.kept import Kept
from pipelines.evaluate.measuring import FOREIGN, about_errors, entry_of, load_for_measuring
from seqgen.core.errors import BadInput
from seqgen.settings import Recipe

if TYPE_CHECKING:
    import torch

    from seqgen.evaluation.bounds import HeldOut
    from seqgen.models import SequentialModel

_PART = 16  # images between two savings; a constant because the noise of an image depends on it
# Omniglot 30-20 at 28x28, nearest neighbour: nats by the number of contexts.
PUBLISHED: tuple[dict[str, Any], ...] = (
    {
        "model": "VMA",
        "source": "Bornschein et al. 2017",
        "nll": {"1": 86.5, "2": 83.0, "5": 76.5, "10": 76.2, "19": 73.9},
        "note": "k = 1,000; the target is never in its own context",
    },
    {
        "model": "GMN, trained with 1 context",
        "source": "Bartunov & Vetrov 2018, table 1",
        "nll": {"0": 90.9, "1": 82.8, "2": 78.8, "3": 76.4, "4": 74.2, "9": 64.6},
        "note": "k = 1,000; its target is in its own context 5 % of the time with 1, 9.8 % with 2, 37 % with 9",
    },
)


@dataclass(frozen=True)
class _Measured:
    """Of every image, [N] in nats: F and NLL by the number of contexts, and F given a foreign one."""

    free: dict[int, torch.Tensor]
    nll: dict[int, torch.Tensor]
    foreign: torch.Tensor | None


def contexts(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    contexts: Annotated[
        str, typer.Option("--contexts", help="Numbers of contexts, separated by commas.")
    ] = "0,1,2,5,10",
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="k of the importance-weighted bound.")
    ] = 1000,
    images: Annotated[int, typer.Option("--images", min=2, help="Images for that bound, at random.")] = 500,
) -> None:
    """Measure -log p(x | x'_1 ... x'_n) by the number n of contexts, on the whole of evaluate.split.

    F is measured on all images, the importance-weighted bound on --images of them, the same for every n; the first
    contexts of an image are the same for every n, too. What was measured is kept below artifacts/<recipe>/one_shot and
    a second run goes on from there; more --images add to it. Writes artifacts/<recipe>/one_shot/contexts.json.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    counts, notes = _counts(trained.recipe, _parsed(contexts))
    entries, about = measure_contexts(trained, counts, samples, images)
    about |= {
        "options": f"--contexts {','.join(map(str, counts))} --samples {samples} --images {images}",
        "notes": notes + about["notes"],
        "published": list(PUBLISHED) if _is_published(trained.recipe) else [],
    }
    for line in [*lines(entries), *about["notes"], *_published_lines(about["published"])]:
        print(line)
    path = write_table(trained, "contexts", entries, about, "Conditional NLL by the number of contexts")
    print(f"written: {path}")


def measure_contexts(
    trained: TrainedModel, counts: Sequence[int], samples: int, images: int
) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The entries of the table and what they were measured with; goes on from what is kept."""
    from seqgen.evaluation.bounds import random_order

    config = trained.recipe.evaluate
    held_out = whole_split(trained, config.split, max(counts))
    chosen = random_order(len(held_out), config.seed, "contexts subset")[:images]
    found = _measure(trained, held_out, chosen, counts, samples)
    notes = [
        f"nll: k = {samples:,} on {len(chosen):,} random images, carried to all {len(held_out):,} of the split by "
        "their difference to F; the target is never among its contexts",
        *([FOREIGN] if found.foreign is not None else []),
    ]
    errors = about_errors(held_out)
    if "interval_95" in errors:
        notes.append(f"95 % interval for other alphabets: {errors['interval_95']}")
    about = {
        "split_images": len(held_out),
        "seed": config.seed,
        "trained_with": list(trained.recipe.train.contexts),
        "pairs": trained.recipe.train.pairs,
        "notes": notes,
        **errors,
    }
    return _entries(found, held_out, len(chosen), samples), about


def _entries(found: _Measured, held_out: HeldOut, weighted_images: int, samples: int) -> dict[str, Entry]:
    from seqgen.evaluation.errors import clustered

    entries: dict[str, Entry] = {}

    def add(name: str, of_images: torch.Tensor, count: int, k: int | None = None) -> None:
        entries[name] = entry_of(clustered(of_images, held_out.groups, held_out.alphabets), count, k=k)

    for count in found.free:
        add(f"nll_{count}_context", found.nll[count], weighted_images, samples)
        add(f"free_energy_{count}_context", found.free[count], len(held_out))
    if found.foreign is not None:
        add("foreign_context_cost", found.foreign - found.free[1], len(held_out))
    for count in found.free:
        if 0 in found.free and count:
            add(f"gain_{count}_context", found.nll[0] - found.nll[count], weighted_images, samples)
            add(f"free_energy_gain_{count}_context", found.free[0] - found.free[count], len(held_out))
    return entries


def _measure(
    trained: TrainedModel, held_out: HeldOut, chosen: torch.Tensor, counts: Sequence[int], samples: int
) -> _Measured:
    from seqgen.evaluation.bounds import foreign_context
    from seqgen.evaluation.errors import difference_values

    config = trained.recipe.evaluate
    model, seed = load_for_measuring(trained), config.seed
    kept = Kept(trained.places.one_shot / "contexts", trained.weights[:16], f"{config.split}-seed{seed}")
    device = next(model.parameters()).device
    print(f"contexts: {len(chosen):,} of {len(held_out):,} images of {config.split} on {device}", flush=True)
    free, nll, foreign = {}, {}, None
    with Display("passes") as display:
        total = len(counts) * (len(held_out) + samples * len(chosen)) + len(held_out) * (1 in counts)
        advance = display.counter("contexts", total)
        for count in counts:
            given = held_out.with_contexts(count)
            free[count] = _free_energy(kept, f"free-energy-{count}", model, given, seed, advance)
            some = given.take(chosen)
            weighted = _weighted(kept, f"nll-k{samples}-{count}", model, some, samples, seed, advance)
            nll[count] = difference_values(free[count], weighted, chosen)
        misleading = foreign_context(held_out.with_contexts(1), seed) if 1 in counts else None
        if misleading is not None:
            exchanged = replace(held_out, context=misleading)
            foreign = _free_energy(kept, "free-energy-foreign", model, exchanged, seed, advance, "foreign")
    return _Measured(free, nll, foreign)


def _free_energy(
    kept: Kept,
    name: str,
    model: SequentialModel,
    held_out: HeldOut,
    seed: int,
    advance: Callable[[int], None],
    purpose: str = "free energy",
) -> torch.Tensor:
    """F of every image, kept once all are measured."""
    from seqgen.evaluation.bounds import free_energies

    values = kept.read(name, len(held_out))
    if len(values) == len(held_out):
        advance(len(held_out))
        return values
    values = free_energies(model, held_out, seed, advance, purpose=purpose).free_energy
    kept.write(name, values)
    check_stop()
    return values


def _weighted(
    kept: Kept,
    name: str,
    model: SequentialModel,
    held_out: HeldOut,
    samples: int,
    seed: int,
    advance: Callable[[int], None],
) -> torch.Tensor:
    """The importance-weighted bound of every image, kept part by part; the noise is the same for any contexts."""
    from seqgen.evaluation.bounds import importance_bounds

    def measure(part: int, index: torch.Tensor) -> torch.Tensor:
        return importance_bounds(model, held_out.take(index), samples, seed, advance, part=part)

    return kept.in_parts(name, len(held_out), _PART, measure, lambda images: advance(images * samples))


def _parsed(text: str) -> list[int]:
    try:
        counts = sorted({int(word) for word in text.split(",")})
    except ValueError:
        counts = [-1]
    if counts[0] < 0:
        raise BadInput(f"--contexts={text}: numbers of contexts are needed, as in 0,1,2")
    return counts


def _counts(recipe: Recipe, wanted: Iterable[int]) -> tuple[list[int], list[str]]:
    """What of `wanted` can be measured, and what there is to say about it. Raises BadInput if nothing can."""
    if not recipe.model.conditional:
        raise BadInput(f"{recipe.name}: model.conditional=false: there are no contexts; use another recipe")
    trained, counts, notes = recipe.train.contexts, list(wanted), []
    if 0 in counts and 0 not in trained:
        counts.remove(0)
        shown = ", ".join(map(str, trained))
        notes.append(
            f"0 contexts left out, and so the gains: trained with {shown} (train.contexts), the null context was "
            "never learned"
        )
        if not counts:
            raise BadInput(
                f"--contexts=0: {recipe.name} was trained with {shown}; train with 0 among train.contexts"
            )
    if more := [str(count) for count in counts if count > max(trained)]:
        notes.append(f"{', '.join(more)} contexts: more than the {max(trained)} it was trained with at most")
    return counts, notes


def _is_published(recipe: Recipe) -> bool:
    """Whether the published numbers are on this data: set, size, rule, split, pairs."""
    data = recipe.data
    return (data.source, data.size, data.split, data.rule) == ("omniglot", 28, "30-20", "nearest") and (
        recipe.evaluate.split == "test" and recipe.train.pairs == "character"
    )


def _published_lines(published: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"  {one['model']} ({one['source']}): "
        + ", ".join(f"{nll} with {count}" for count, nll in one["nll"].items())
        + f"; {one['note']}"
        for one in published
    ]


if __name__ == "__main__":
    run(contexts)
