"""Register the trained model as a candidate, and make it champion if its held-out bound is better."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from pipelines.registry.promotion import Decision, Evaluation
    from seqgen.data.images import ImageSet


def register(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Register artifacts/<recipe>/train as a candidate; make it champion if its held-out bound is better.

    Writes register/register.json. Exits 0 whether promoted or not; the reason is printed and kept as a tag.
    """
    raise_on_stop()
    print(summary(register_trained(load_trained_model(recipe, settings or ()))))


def summary(result: dict[str, Any]) -> str:
    """register.json in one line."""
    title = f"{result['name']} version {result['version']}"
    if result["promoted"]:
        return f"promoted {title} to champion: {result['reason']}"
    return f"kept champion {result['champion'] or '(none)'}; {title} is a candidate: {result['reason']}"


def register_trained(trained: TrainedModel) -> dict[str, Any]:
    """Add a version, decide, and write register.json; returns its content.

    Raises BadInput if there is nothing complete to register, OperationalError for the server. The alias
    `champion` moves only after the new version was fetched back and loaded.
    """
    from pipelines.registry import package, versions
    from pipelines.registry.promotion import Evaluation
    from pipelines.tracking import runs

    for path in package.parts(trained).values():
        if not path.exists():
            raise BadInput(
                f"{path}: missing; run `python -m pipelines.evaluate --recipe {trained.recipe.name}`"
            )
    evaluation, images = Evaluation.read(trained.places.evaluate), _evaluated(trained)
    evaluation.check(trained, len(images))
    client = runs.connect()
    try:
        version = versions.add_version(client, trained, evaluation)
        decision = _promote(client, version, trained, evaluation, images)
        holder = versions.by_alias(client, version.name, versions.CHAMPION)
    except runs.server_errors() as error:
        raise OperationalError(runs.explain(client.tracking_uri, error)) from error
    result = {
        "name": version.name,
        "version": str(version.version),
        "alias": versions.CHAMPION if decision.promoted else versions.CANDIDATE,
        "promoted": decision.promoted,
        "reason": decision.reason,
        "champion": str(holder.version) if holder else None,
        "difference": decision.difference,
        "difference_se": decision.difference_se,
    }
    write_json(trained.places.register / "register.json", result)
    return result


def _promote(
    client: MlflowClient,
    version: ModelVersion,
    trained: TrainedModel,
    evaluation: Evaluation,
    images: ImageSet,
) -> Decision:
    """Compare-and-set: judged against the champion there is, and again if another was put there meanwhile."""
    from pipelines.registry import versions

    with versions.lock(client, version.name):
        while True:
            champion = versions.by_alias(client, version.name, versions.CHAMPION)
            decision = _judge(client, version, champion, trained, evaluation, images)
            if not decision.promoted:
                tags = {"promotion": "not promoted", "promotion_reason": decision.reason}
                versions.set_tags(client, version, tags)
                return decision
            if champion is not None and champion.version == version.version:
                return decision
            if versions.move_champion(client, version, champion, decision.reason):
                return decision


def _judge(
    client: MlflowClient,
    version: ModelVersion,
    champion: ModelVersion | None,
    trained: TrainedModel,
    evaluation: Evaluation,
    images: ImageSet,
) -> Decision:
    from pipelines.registry.promotion import Decision, decide
    from pipelines.registry.versions import fetch_evaluation
    from seqgen.evaluation.bounds import groups_of

    min_gain = trained.recipe.register_.min_gain
    if champion is None:
        return decide(evaluation, None, "", min_gain)
    title = f"champion version {champion.version}"
    if champion.version == version.version:
        return Decision(True, "it is the champion already")
    try:
        defended = fetch_evaluation(client, champion)
        if evaluation.differences(defended):
            defended = _evaluate_again(client, champion, trained, evaluation, images)
            title += " measured again on the present data"
        groups = groups_of(images, trained.recipe.data)
        return decide(evaluation, defended, title, min_gain, groups)
    except (BadInput, OperationalError) as error:
        return Decision(False, f"{title} cannot be compared: {error}")


def _evaluate_again(
    client: MlflowClient,
    champion: ModelVersion,
    trained: TrainedModel,
    evaluation: Evaluation,
    images: ImageSet,
) -> Evaluation:
    """Measure the champion as the candidate was measured: same images, binarisation, contexts and noise.

    Raises BadInput if the champion is a model of other images.
    """
    from pipelines.registry.promotion import Evaluation
    from seqgen.evaluation.bounds import free_energies, hold_out
    from seqgen.models import load_model
    from seqgen.serving.loading import fetch_model

    config = trained.recipe.evaluate
    with tempfile.TemporaryDirectory() as directory:
        model = load_model(fetch_model(client, champion, Path(directory)))
    manifest = trained.manifest()
    conditional = trained.recipe.model.conditional
    theirs = (model.height, model.width, model.config.conditional)
    if theirs != (manifest.height, manifest.width, conditional):
        raise BadInput(
            f"it draws {theirs[0]}x{theirs[1]} images{' given a context' if theirs[2] else ''}, and the "
            f"evaluation has {manifest.height}x{manifest.width}{' with contexts' if conditional else ''}; "
            "use another register.name for another task"
        )
    held_out = hold_out(images, trained.recipe.data, conditional, config.seed)
    return Evaluation(evaluation.data, free_energies(model, held_out, config.seed).free_energy)


def _evaluated(trained: TrainedModel) -> ImageSet:
    """The images that the evaluation was made on."""
    from seqgen.data.images import load_split
    from seqgen.training.memory import image_memory

    config = trained.recipe.evaluate
    return load_split(trained.places.shards, config.split, config.images, memory=image_memory())


if __name__ == "__main__":
    run(register)
