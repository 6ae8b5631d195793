"""Register the trained model as a candidate, and make it champion if its held-out bound is better."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import BadInput, OperationalError
from data_prep.files import write_json
from pipelines.support.signals import raise_on_stop
from pipelines.support.trained import Trained, load_trained
from pipelines.support.verb import RecipeOption, SetOption, run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from pipelines.support.promotion import Decision, Evaluation
    from seqgen.data import ImageSet


def register(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Register artifacts/<recipe>/train as a candidate; make it champion if its held-out bound is better.

    Writes register/register.json. Exits 0 whether promoted or not; the reason is printed and kept as a tag.
    """
    raise_on_stop()
    print(summary(register_trained(load_trained(recipe, settings or ()))))


def summary(result: dict[str, Any]) -> str:
    """register.json in one line."""
    title = f"{result['name']} version {result['version']}"
    if result["promoted"]:
        return f"promoted {title} to champion: {result['reason']}"
    return f"kept champion {result['champion'] or '(none)'}; {title} is a candidate: {result['reason']}"


def register_trained(trained: Trained) -> dict[str, Any]:
    """Add a version, decide, and write register.json; returns its content.

    Raises BadInput if there is nothing complete to register, OperationalError for the server. The alias
    `champion` moves only after the new version was fetched back and loaded.
    """
    from pipelines.support import package, registry, tracking
    from pipelines.support.promotion import Evaluation

    for path in package.parts(trained).values():
        if not path.exists():
            raise BadInput(
                f"{path}: missing; run `python -m pipelines.evaluate --recipe {trained.recipe.name}`"
            )
    evaluation, images = Evaluation.read(trained.places.evaluate), _evaluated(trained)
    evaluation.check(trained, len(images))
    client = tracking.connect()
    try:
        version = registry.add_version(client, trained, evaluation)
        decision = _promote(client, version, trained, evaluation, images)
        holder = registry.by_alias(client, version.name, registry.CHAMPION)
    except tracking.server_errors() as error:
        raise OperationalError(tracking.explain(client.tracking_uri, error)) from error
    result = {
        "name": version.name,
        "version": str(version.version),
        "alias": registry.CHAMPION if decision.promoted else registry.CANDIDATE,
        "promoted": decision.promoted,
        "reason": decision.reason,
        "champion": str(holder.version) if holder else None,
        "difference": decision.difference,
        "difference_se": decision.difference_se,
    }
    write_json(trained.places.register / "register.json", result)
    return result


def _promote(
    client: MlflowClient, version: ModelVersion, trained: Trained, evaluation: Evaluation, images: ImageSet
) -> Decision:
    """Compare-and-set: judged against the champion there is, and again if another was put there meanwhile."""
    from pipelines.support import registry

    with registry.lock(client, version.name):
        while True:
            champion = registry.by_alias(client, version.name, registry.CHAMPION)
            decision = _judge(client, version, champion, trained, evaluation, images)
            if not decision.promoted:
                tags = {"promotion": "not promoted", "promotion_reason": decision.reason}
                registry.set_tags(client, version, tags)
                return decision
            if champion is not None and champion.version == version.version:
                return decision
            if registry.move_champion(client, version, champion, decision.reason):
                return decision


def _judge(
    client: MlflowClient,
    version: ModelVersion,
    champion: ModelVersion | None,
    trained: Trained,
    evaluation: Evaluation,
    images: ImageSet,
) -> Decision:
    from pipelines.support.promotion import Decision, decide
    from pipelines.support.registry import fetch_evaluation
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
    trained: Trained,
    evaluation: Evaluation,
    images: ImageSet,
) -> Evaluation:
    """Measure the champion as the candidate was measured: same images, binarisation, contexts and noise.

    Raises BadInput if the champion is a model of other images.
    """
    from pipelines.support.promotion import Evaluation
    from seqgen.evaluation.bounds import free_energies, hold_out
    from seqgen.loading import fetch_model
    from seqgen.models import load_model

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


def _evaluated(trained: Trained) -> ImageSet:
    """The images that the evaluation was made on."""
    from pipelines.support.ray_cluster import image_memory
    from seqgen.data import load_split

    config = trained.recipe.evaluate
    return load_split(trained.places.shards, config.split, config.images, memory=image_memory())


if __name__ == "__main__":
    run(register)
