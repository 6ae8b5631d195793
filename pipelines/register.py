"""Register the trained model; champion if its bound is better."""

from __future__ import annotations

from typing import Any

from pipelines.artifacts.held_out import evaluated_images
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import write_json


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
    from pipelines.registry.evaluation import Evaluation
    from pipelines.registry.promotion import promote
    from pipelines.tracking import runs

    for path in package.parts(trained).values():
        if not path.exists():
            raise BadInput(
                f"{path}: missing; run `python -m pipelines.evaluate --recipe {trained.recipe.name}`"
            )
    evaluation, held_out = Evaluation.read(trained.places.evaluate), evaluated_images(trained)
    evaluation.check(trained, len(held_out))
    client = runs.connect()
    try:
        trained.run["run_id"] = runs.id_on_server(client, trained.run["run_id"])
        version = versions.add_version(client, trained, evaluation)
        decision = promote(client, version, trained, evaluation, held_out)
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


if __name__ == "__main__":
    run(register)
