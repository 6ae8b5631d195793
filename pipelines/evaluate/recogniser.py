"""Train the critics that judge samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.places import places, state_root
from pipelines.artifacts.shards import checked_manifest, shards_of
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import raise_on_stop
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from seqgen.core.files import canonical_digest, directory_writer
from seqgen.settings import Recipe

if TYPE_CHECKING:
    from seqgen.evaluation.recognition import Plan, Recogniser

_ASKED = ("valid", "test")


def recogniser(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Train the critics that judge samples, on the recipe's training characters.

    Writes artifacts/<recipe>/critics: a prototypical network that recognises characters from one drawing, and an
    embedding in which drawings are compared. About 10 minutes of one core; a stopped training goes on.
    """
    from seqgen.evaluation.recognition import Plan

    raise_on_stop()
    train_critics(load_recipe(recipe, settings or ()), Plan())


def train_critics(recipe: Recipe, plan: Plan) -> Path:
    """Train both critics, from evaluate.seed, and write them whole or not at all; returns their directory.

    What they are asked to do is shown on valid and on test; nothing is chosen by the latter.
    """
    from seqgen.data.images import load_split
    from seqgen.evaluation import recognition

    if not recipe.data.is_omniglot:
        raise BadInput(
            f"data.source={recipe.data.source}: critics recognise characters; use a recipe of Omniglot's"
        )
    manifest = checked_manifest(recipe)
    seed, target = recipe.evaluate.seed, places(recipe).critics
    identity = plan.identity(manifest.digest, seed)
    before = recognition.read_description(target)
    if before is not None and before["identity"] == identity:
        print(f"{target}: trained already")
        return target
    characters = {
        split: recognition.by_character(load_split(shards_of(recipe), split)) for split in manifest.splits
    }
    for split in _ASKED:
        if len(characters[split].drawings) < recognition.WAYS:
            raise BadInput(
                f"{shards_of(recipe)}: {len(characters[split].drawings)} characters in {split}, and a task has "
                f"{recognition.WAYS}; use a larger set"
            )
    drawings = characters["train"].drawings
    state = state_root() / "critics" / canonical_digest(identity)[:16]
    with Display("steps") as display:
        arguments = (drawings, plan, seed)
        recogniser = recognition.train_recogniser(
            *arguments,
            recognition.keeper(state, "recogniser", identity),
            display.counter("recogniser", plan.episodes),
        )
        embedding = recognition.train_embedding(
            *arguments,
            recognition.keeper(state, "embedding", identity),
            display.counter("embedding", plan.contrasts),
        )
    accuracies = _accuracies(recogniser, characters)
    about = {
        "identity": identity,
        "set": manifest.title,
        "accuracy": accuracies,
    }
    with directory_writer(target) as fresh:
        recognition.save_critics(recognition.Critics(recogniser, embedding, about), fresh)
    for critic in ("recogniser", "embedding"):
        (state / f"{critic}.pt").unlink(missing_ok=True)
    for split, found in accuracies.items():
        print(f"  {recognition.WAYS}-way 1-shot on {split}: {found['value']:.2f} % ± {found['se']:.2f}")
    print(f"written: {target}")
    return target


def _accuracies(network: Recogniser, characters: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """20-way 1-shot accuracy on the characters that were not trained on, in per cent, by split."""
    from seqgen.evaluation.errors import clustered
    from seqgen.evaluation.recognition import encode, one_shot_rates

    found = {}
    for split in _ASKED:
        drawings, alphabets = characters[split]
        rates = one_shot_rates(encode(network, drawings)).mean(1)
        found[split] = clustered(100 * rates, None, alphabets)._asdict()
    return found


if __name__ == "__main__":
    run(recogniser)
