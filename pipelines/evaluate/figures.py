"""What the verbs of figures share: what a figure shows, and the picture with its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.artifacts.held_out import evaluated_images
from pipelines.artifacts.one_shot import Entry, write_table
from pipelines.artifacts.trained_model import TrainedModel
from pipelines.cli.progress import Display
from pipelines.evaluate.measuring import load_for_measuring
from pipelines.registry.evaluation import Evaluation, comparable
from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from seqgen.drawing.one_shot import Subject
    from seqgen.evaluation.bounds import HeldOut
    from seqgen.models import SequentialModel


TemperatureOption = Annotated[float, typer.Option("--temperature", min=0, help="Scale of the prior's noise.")]


def need_contexts(trained: TrainedModel, what: str, *, of_character: bool = True) -> None:
    """Raises BadInput for an unconditional model; `what` needs contexts, `of_character` the image's own character's."""
    if not trained.recipe.model.conditional:
        raise BadInput(
            f"model.conditional=false in {trained.recipe.name}: {what} needs contexts; "
            "name a recipe with conditional=true"
        )
    if of_character and trained.recipe.train.pairs != "character":
        raise BadInput(
            f"train.pairs={trained.recipe.train.pairs} in {trained.recipe.name}: {what} shows drawings of the "
            "character that was given; name a recipe with pairs=character"
        )


def load_held_out(trained: TrainedModel, contexts: int = 1) -> tuple[SequentialModel, HeldOut]:
    """The model and the held-out images as `pipelines.evaluate` takes them, with so many contexts, if it wants any."""
    return load_for_measuring(trained), evaluated_images(trained, contexts)


def subject(trained: TrainedModel, contexts: int = 1, temperature: float = 1.0) -> Subject:
    """What a sheet of this model shows; F of every drawing is the evaluation's where that was given the same."""
    from seqgen.drawing.one_shot import Subject

    model, held_out = load_held_out(trained, contexts)
    free_energy = _evaluated(trained, held_out) if contexts == 1 else None
    if free_energy is None:
        free_energy = _free_energy(trained, model, held_out)
    title, seed = trained.manifest().title, trained.recipe.evaluate.seed
    return Subject(model, held_out, free_energy, title, seed, temperature)


def write_figure(
    trained: TrainedModel,
    name: str,
    picture: bytes,
    title: str,
    entries: Mapping[str, Entry] | None = None,
    about: Mapping[str, Any] | None = None,
    temperature: float = 1.0,
) -> None:
    """Write artifacts/<recipe>/one_shot/<verb>.png, `name`, then <verb>.json, which says whose weights drew it.

    With another `temperature` than 1 both names end with it.
    """
    verb, _, kind = name.partition(".")
    suffix, options = "", (about or {}).get("options", "")
    if temperature != 1:
        suffix = f"-temperature-{temperature:g}"
        options = f"{options} --temperature {temperature:g}".strip()
    name = f"{verb}{suffix}.{kind}"
    path = trained.places.one_shot / name
    write_bytes(path, picture)
    choices = {**(about or {}), "picture": name, "seed": trained.recipe.evaluate.seed, "options": options}
    table = write_table(trained, verb, entries or {}, choices, title, name=f"{verb}{suffix}")
    print(f"written: {path}, {table.name}")


def _evaluated(trained: TrainedModel, held_out: HeldOut) -> Tensor | None:
    """F of every image as the evaluate stage left it, None if it is not of these weights and images."""
    if not (trained.places.evaluate / "bounds.npy").is_file():
        return None
    evaluation = Evaluation.read(trained.places.evaluate)
    same = evaluation.data == comparable(trained, len(held_out)) and evaluation.weights == trained.weights
    return evaluation.bounds if same else None


def _free_energy(trained: TrainedModel, model: SequentialModel, held_out: HeldOut) -> Tensor:
    from seqgen.evaluation.bounds import free_energies

    with Display("images") as display:
        advance = display.counter("F", len(held_out))
        return free_energies(model, held_out, trained.recipe.evaluate.seed, advance).free_energy
