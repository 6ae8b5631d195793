"""Measure how many samples a critic recognises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.artifacts.held_out import images_of
from pipelines.artifacts.one_shot import Entry, command, lines, write_table
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.measuring import entry_of, load_for_measuring
from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes

if TYPE_CHECKING:
    from seqgen.evaluation.recognition import Characters, Critics, Judgement

PICTURE = "recognise.svg"
SAMPLES = 20  # of each character, as many as people drew
_PROTOCOL = (
    "Boutin et al. 2022. Recognised: a drawing goes to the nearest of 20 exemplars in a prototypical network, one of "
    "them what was given, the others of random characters: averaged over all such tasks. Exemplars are random drawings "
    "or typical ones, nearest to the mean of the character's drawings in the embedding (published results have "
    "prototypes, chosen by a rule that was not published). "
    "People's other drawings of the character are measured the same way. Samples are mean images, ink where above 1/2. "
    "Originality: the standard deviation over the drawings of a character, mean over the features of a SimCLR "
    "embedding, which are standardised over all training drawings."
)
TemperatureOption = Annotated[
    list[float] | None,
    typer.Option("--temperature", help="Scale of the prior's noise; give it again for several. Default: 1."),
]


def recognise(
    recipe: RecipeOption = None, settings: SetOption = None, temperature: TemperatureOption = None
) -> None:
    """Measure how many of the model's samples a critic recognises, and how much they differ.

    Writes artifacts/<recipe>/one_shot/recognise.json, with people's drawings measured the same way, and
    recognise.svg. Needs the critics: `seqgen recogniser`.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    for line in lines(measure_recognition(trained, temperature or [1.0])):
        print(line)
    print(f"written: {trained.places.one_shot}")


def measure_recognition(trained: TrainedModel, temperatures: list[float]) -> dict[str, Entry]:
    """Draw, judge and write; returns the table's entries. Raises BadInput before anything is drawn."""
    _check(trained, temperatures)
    critics = _critics(trained)

    from seqgen.drawing.plane import PEOPLE, Judged, plane
    from seqgen.evaluation import recognition
    from seqgen.evaluation.errors import Clustered, clustered

    recipe, config = trained.recipe, trained.recipe.evaluate
    characters = recognition.by_character(images_of(trained, config.split))
    entries: dict[str, Entry] = {}
    points: list[Judged] = []
    for kind, who, name, found in _judged(trained, critics, characters, temperatures):
        recognised = clustered(100 * found.recognised, None, characters.alphabets)
        originality = clustered(found.originality, None, characters.alphabets)
        k = None if who == PEOPLE else SAMPLES
        images = len(characters.drawings) * (SAMPLES if k else characters.drawings.shape[1] - 1)
        entries[f"recognised_{kind}{name}"] = entry_of(recognised, images, unit="%", k=k)
        entries[f"originality_{kind}{name}"] = entry_of(
            originality, images, unit="of the spread of all drawings", k=k
        )
        errors = recognised.se, originality.se
        points.append(Judged(who, recognised.value, originality.value, *errors, typical=bool(kind)))
    accuracy = Clustered(**critics.about["accuracy"][config.split])
    drawings = characters.drawings.shape[0] * characters.drawings.shape[1]
    entries[f"protonet_accuracy_{recipe.data.split}"] = entry_of(accuracy, drawings, unit="%")
    plain = temperatures == [1.0]
    about = {
        "picture": PICTURE,
        "needs": command(trained, "recogniser"),
        "protocol": _PROTOCOL,
        "characters": len(characters.drawings),
        "seed": config.seed,
        "options": "" if plain else " ".join(f"--temperature {one:g}" for one in temperatures),
        "critics": critics.about["sha256"],
    }
    write_bytes(trained.places.one_shot / PICTURE, plane(points))
    write_table(trained, "recognise", entries, about, "Recognisability and originality of samples")
    return entries


def _judged(
    trained: TrainedModel, critics: Critics, characters: Characters, temperatures: list[float]
) -> Iterator[tuple[str, str, str, Judgement]]:
    """The kind of exemplars, who drew, how the figures' names end, and what the critics say of each character."""
    from seqgen.drawing.plane import PEOPLE
    from seqgen.evaluation import recognition

    recipe, seed = trained.recipe, trained.recipe.evaluate.seed
    split, model = recipe.data.split, load_for_measuring(trained)
    features = recognition.encode(critics.embedding, characters.drawings)
    given = {
        "": recognition.random_exemplars(characters, seed),
        "typical_": recognition.typical_exemplars(characters, features),
    }
    with Display("samples") as display:
        total = len(given) * len(temperatures) * len(characters.drawings) * SAMPLES
        advance = display.counter("samples", total)
        for kind, exemplars in given.items():
            for temperature in temperatures:
                samples = recognition.draw_samples(
                    model, exemplars.support, SAMPLES, seed, temperature, advance
                )
                suffix = "" if temperature == 1 else f"_temperature_{temperature:g}"
                who = recipe.name if len(temperatures) == 1 else f"temperature {temperature:g}"
                yield (
                    kind,
                    who,
                    f"{split}{suffix}",
                    recognition.judge(critics, exemplars.support, samples),
                )
            people = recognition.judge(critics, exemplars.support, exemplars.others)
            yield kind, PEOPLE, f"people_{split}", people


def _critics(trained: TrainedModel) -> Critics:
    """The recipe's critics. Raises BadInput unless they are of the shards that the model was trained on."""
    from seqgen.evaluation.recognition import load_critics, read_description

    directory, manifest = trained.places.critics, trained.manifest()
    remedy = f"run `{command(trained, 'recogniser')}`"
    description = read_description(directory)
    if description is None:
        raise BadInput(f"{directory}: no critics here; {remedy}")
    if (before := description["identity"]["data"]) != manifest.digest:
        raise BadInput(
            f"{directory}: critics of other shards (manifest {before[:12]}, here {manifest.digest[:12]}); {remedy}"
        )
    return load_critics(directory)


def _check(trained: TrainedModel, temperatures: list[float]) -> None:
    recipe = trained.recipe
    if not recipe.data.is_omniglot:
        raise BadInput(
            f"data.source={recipe.data.source}: critics recognise characters; use a recipe of Omniglot's"
        )
    if not recipe.model.conditional:
        raise BadInput(
            "model.conditional=false: samples are recognised by the drawing they were given; use true"
        )
    if recipe.train.pairs != "character":
        raise BadInput(
            f"train.pairs={recipe.train.pairs}: samples are of other characters than the one given; use character"
        )
    if any(not temperature >= 0 for temperature in temperatures) or len(set(temperatures)) < len(
        temperatures
    ):
        raise BadInput(f"--temperature {' '.join(map(str, temperatures))}: give each once, 0 or more")


if __name__ == "__main__":
    run(recognise)
