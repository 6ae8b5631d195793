"""Measure -log p(x) by estimators that check one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.artifacts.held_out import whole_split
from pipelines.artifacts.one_shot import Entry, entry, lines, write_table
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.kept import Kept
from pipelines.evaluate.measuring import about_errors, entry_of, load_for_measuring

if TYPE_CHECKING:
    import torch

    from seqgen.evaluation.bounds import HeldOut
    from seqgen.models import SequentialModel

TITLE = "-log p(x) by several estimators"
# Images measured together between two savings; constants because the noise of an image depends on them.
_WEIGHTED_PART, _ANNEALED_PART = 16, 8


@dataclass(frozen=True)
class Options:
    """What is measured, and on how many images."""

    samples: int
    images: int
    draws: int
    ais_images: int
    ais_steps: int
    ais_chains: int

    def __str__(self) -> str:
        """As on the command line."""
        text = f"--samples {self.samples} --images {self.images} --draws {self.draws}"
        if not self.ais_images:
            return text
        return f"{text} --ais-images {self.ais_images} --ais-steps {self.ais_steps} --ais-chains {self.ais_chains}"


@dataclass(frozen=True)
class _Work:
    """A model and a split, what of it was measured before, and the display to be told of what is."""

    model: SequentialModel
    held_out: HeldOut
    seed: int
    options: Options
    kept: Kept
    advance: Callable[[float], None]


def estimators(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="k of the importance-weighted bound.")
    ] = 5000,
    images: Annotated[int, typer.Option("--images", min=2, help="Images for that bound, at random.")] = 100,
    draws: Annotated[
        int, typer.Option("--draws", min=2, help="Images drawn with replacement, as the paper does.")
    ] = 24_000,
    ais_images: Annotated[
        int, typer.Option("--ais-images", min=0, help="Images for annealed importance sampling; 0: none.")
    ] = 0,
    ais_steps: Annotated[
        int, typer.Option("--ais-steps", min=1, help="Steps from prior to posterior.")
    ] = 1000,
    ais_chains: Annotated[int, typer.Option("--ais-chains", min=1, help="Chains an image.")] = 16,
) -> None:
    """Measure -log p(x) on the whole of evaluate.split: F, the paper's protocol, importance weights, AIS.

    Beside the importance-weighted bound stand its effective samples, beside F the KL and how many units are active.
    AIS (--ais-images) is for small models: of images of the split one bound, of as many that the model drew two
    bounds with the truth between them. What was measured is kept below artifacts/<recipe>/one_shot, and a second run
    goes on from there. Writes artifacts/<recipe>/one_shot/estimators.json.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    options = Options(samples, images, draws, ais_images, ais_steps, ais_chains)
    entries, about = measure_estimators(trained, options)
    for line in [*lines(entries), *about["notes"]]:
        print(line)
    path = write_table(trained, "estimators", entries, about, TITLE)
    print(f"written: {path}")


def measure_estimators(trained: TrainedModel, options: Options) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The entries of the table and what they were measured with; goes on from what is kept.

    Raises BadInput for AIS of a model whose noise is not all Gaussian.
    """
    from seqgen.evaluation import annealing
    from seqgen.evaluation.bounds import random_order

    config, binarise = trained.recipe.evaluate, trained.recipe.data.binarise
    model = load_for_measuring(trained)
    if options.ais_images:
        annealing.require_normal_noise(model)
    held_out = whole_split(trained, config.split)
    order = random_order(len(held_out), config.seed, "estimators subset")
    chosen = order[: options.images]
    # Whole parts, so that more images later leave these as they are.
    annealed = order[: -(-options.ais_images // _ANNEALED_PART) * _ANNEALED_PART]
    kept = Kept(
        trained.places.one_shot / "estimators", trained.weights[:16], f"{config.split}-seed{config.seed}"
    )
    device = next(model.parameters()).device
    print(f"estimators: {len(held_out):,} images of {config.split} on {device}", flush=True)
    with Display("passes") as display:
        total = 2 * len(held_out) + options.draws + options.samples * (len(chosen) + len(annealed))
        for simulated in (False, True):
            each = annealing.passes(options.ais_steps, options.ais_chains, simulated=simulated)
            total += each * len(annealed)
        work = _Work(model, held_out, config.seed, options, kept, display.counter("estimators", total))
        split = f"{config.split}/{binarise}"
        free, entries, about = _free_energies(work, split)
        entries |= _weighted_entries(work, split, free, chosen)
        if options.ais_images:
            entries |= _annealed_entries(work, split, f"simulated/{binarise}", held_out.take(annealed))
            about["notes"].append(
                "nll_ais: from the prior, in expectation above -log p(x); nll_ais_reverse: below it, from the exact "
                "posterior sample of an image that the model drew (simulated); ais_gap: what is left between the two"
            )
    return entries, {"options": str(options), "seed": config.seed, "binarise": binarise} | about


def _free_energies(work: _Work, name: str) -> tuple[torch.Tensor, dict[str, Entry], dict[str, Any]]:
    """F of every image; entries of it, of the paper's protocol and of the latents; what else there is to say."""
    from seqgen.evaluation.bounds import drawn_with_replacement, free_energies
    from seqgen.evaluation.errors import estimate
    from seqgen.evaluation.latent_use import ACTIVE, latent_use

    model, held_out, count = work.model, work.held_out, len(work.held_out)
    found = free_energies(model, held_out, work.seed, work.advance)
    draws = work.options.draws
    drawn = estimate(drawn_with_replacement(model, held_out, draws, work.seed, work.advance))
    entries = {
        f"{name}/free_energy": _entry(found.free_energy, held_out),
        f"{name}/kl": _entry(found.free_energy + found.log_likelihood, held_out),
        f"{name}/paper_protocol": entry(drawn.mean, drawn.se, draws, unit="nats"),
    }
    notes = [
        f"paper_protocol: F of {draws:,} images drawn with replacement, one posterior sample each; its error is the "
        "standard deviation of the mean, as if all images were independent",
        "nll: importance-weighted, carried to the whole split by its difference to F; effective_samples: of the k, by "
        "their weights; largest_weight: the share of the largest",
    ]
    use = latent_use(model, held_out, work.seed, work.advance)
    about: dict[str, Any] = {"kl_per_step": found.kl.tolist(), "notes": notes, **about_errors(held_out)}
    if use is None:
        notes.append("no KL by latent and no active units: of these latents only the KL of a step is known")
        return found.free_energy, entries, about
    unit = f"of {use.kl.numel()}"
    for what, values in (("active_units", use.activity), ("latents_of_0.01_nats", use.kl)):
        entries[f"{name}/{what}"] = entry(float((values > ACTIVE).sum()), None, count, unit=unit)
    notes.append(
        f"active_units: latents whose Var_x E[z | x] under q exceeds {ACTIVE}; latents_of_0.01_nats: whose KL does"
    )
    about |= {"kl_per_latent": use.kl.tolist(), "activity_per_latent": use.activity.tolist()}
    return found.free_energy, entries, about


def _weighted_entries(work: _Work, name: str, free: torch.Tensor, chosen: torch.Tensor) -> dict[str, Entry]:
    from seqgen.evaluation.errors import difference_values

    k, some = work.options.samples, work.held_out.take(chosen)
    bound, effective, largest = _weighted(work, "weighted", some).T
    nll = _entry(difference_values(free, -bound, chosen), work.held_out, k=k)
    return {
        f"{name}/nll_{k}": {**nll, "images": len(some)},
        f"{name}/effective_samples_{k}": _entry(effective, some, unit="samples", k=k),
        f"{name}/effective_samples_{k}_least": entry(
            effective.min().item(), None, len(some), unit="samples", k=k
        ),
        f"{name}/largest_weight_{k}": _entry(largest, some, unit="share", k=k),
    }


def _annealed_entries(work: _Work, name: str, simulated_name: str, some: HeldOut) -> dict[str, Entry]:
    """AIS on `some` images; both ways on as many that the model drew given their contexts, and the weighted bound."""
    import torch

    from seqgen.evaluation import annealing

    model, options, seed, k = work.model, work.options, work.seed, work.options.samples

    def measure(part: int, of: HeldOut, exact: torch.Tensor | None = None) -> annealing.Sandwich:
        return annealing.sandwich(
            model, of, options.ais_steps, options.ais_chains, seed, work.advance, part=part, exact=exact
        )

    def given(part: int, index: torch.Tensor) -> torch.Tensor:
        return measure(part, some.take(index)).lower

    def drawn(part: int, index: torch.Tensor) -> torch.Tensor:
        of, exact = annealing.simulate(model, some.take(index), seed, part=part)
        found = measure(part, of, exact)
        assert found.upper is not None
        return torch.stack([found.lower, found.upper, found.acceptance], 1)

    def kept(
        what: str, measured: Callable[[int, torch.Tensor], torch.Tensor], *, simulated: bool
    ) -> torch.Tensor:
        each = annealing.passes(options.ais_steps, options.ais_chains, simulated=simulated)
        file = f"{what}-n{options.ais_steps}-m{options.ais_chains}"
        return work.kept.in_parts(
            file, len(some), _ANNEALED_PART, measured, lambda images: work.advance(images * each)
        )

    forward = kept("ais", given, simulated=False)
    lower, upper, acceptance = kept("ais-simulated", drawn, simulated=True).T
    parts = torch.arange(len(some)).split(_ANNEALED_PART)
    images = [annealing.simulate(model, some.take(each), seed, part=part) for part, each in enumerate(parts)]
    simulated = replace(some, x=torch.cat([one.held_out.x for one in images]))
    bound = _weighted(work, "weighted-simulated", simulated)[:, 0]
    return {
        f"{name}/nll_ais": _entry(-forward, some),
        f"{simulated_name}/nll_ais": _entry(-lower, simulated),
        f"{simulated_name}/nll_ais_reverse": _entry(-upper, simulated),
        f"{simulated_name}/ais_gap": _entry(upper - lower, simulated),
        f"{simulated_name}/ais_acceptance": _entry(acceptance, simulated, unit="share"),
        f"{simulated_name}/nll_{k}": _entry(-bound, simulated, k=k),
        f"{simulated_name}/nll_{k}_less_ais_reverse": _entry(upper - bound, simulated, k=k),
    }


def _weighted(work: _Work, what: str, some: HeldOut) -> torch.Tensor:
    """L_k, effective samples and the largest weight's share of every image, [N,3], kept part by part."""
    import torch

    from seqgen.evaluation.bounds import importance_estimates

    k = work.options.samples

    def measure(part: int, index: torch.Tensor) -> torch.Tensor:
        found = importance_estimates(work.model, some.take(index), k, work.seed, work.advance, part=part)
        return torch.stack(found, 1)

    return work.kept.in_parts(
        f"{what}-k{k}", len(some), _WEIGHTED_PART, measure, lambda images: work.advance(images * k)
    )


def _entry(values: torch.Tensor, of: HeldOut, *, unit: str = "nats", k: int | None = None) -> Entry:
    from seqgen.evaluation.errors import clustered

    return entry_of(clustered(values, of.groups, of.alphabets), len(values), unit=unit, k=k)


if __name__ == "__main__":
    run(estimators)
