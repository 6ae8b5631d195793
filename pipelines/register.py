"""Register the trained model; champion if its bound is better."""

from __future__ import annotations

import os
from typing import Any

from pipelines.artifacts.held_out import evaluated_images
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from seqgen.core.errors import BadInput
from seqgen.core.files import write_json


def register(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Register artifacts/<recipe>/train as a candidate; make it champion if its bound on register.split is better.

    Writes register/register.json. Exits 0 whether promoted or not; the reason is printed and kept as a tag. Within
    `dvc exp run` nothing is registered.
    """
    raise_on_stop()
    print(summary(register_trained(load_trained_model(recipe, settings or ()))))


def summary(result: dict[str, Any]) -> str:
    """register.json in one line."""
    if result["version"] is None:
        return f"not registered: {result['reason']}"
    title = f"{result['name']} version {result['version']}"
    if result["promoted"]:
        return f"promoted {title} to champion: {result['reason']}"
    kept = f"champion v{result['champion']}" if result["champion"] else "no champion"
    return f"kept {kept} because {result['reason']}; {title} is a candidate"


def register_trained(trained: TrainedModel) -> dict[str, Any]:
    """Measure on register.split, add a version, decide, and write register.json; returns its content.

    Raises BadInput if there is nothing complete to register or the server refuses our login, OperationalError for the
    server. The alias `champion` moves only after the new version was fetched back and looked through.
    """
    from pipelines.registry import package
    from pipelines.registry.evaluation import Evaluation

    places = trained.places
    for path in (*package.parts(trained).values(), places.evaluate / "bounds.npy"):
        if not path.exists():
            raise BadInput(f"{path}: missing; run `seqgen evaluate --recipe {trained.recipe.name}`")
    Evaluation.read(places.evaluate).check(trained, len(evaluated_images(trained)))
    result = _in_experiment(trained) or _compete(trained)
    write_json(places.register / "register.json", result)
    return result


def _in_experiment(trained: TrainedModel) -> dict[str, Any] | None:
    """What register.json says where a stage of `dvc exp run` calls: an experiment's models are nobody's to use yet."""
    if (
        "DVC_EXP_BASELINE_REV" not in os.environ
    ):  # DVC sets it for the stages of an experiment, and of no repro
        return None
    title = os.environ.get("DVC_EXP_NAME", "without a name")
    reason = (
        f"`dvc exp run` (experiment {title}) registers nothing; to have it in the registry run "
        f"`seqgen register --recipe {trained.recipe.name}`"
    )
    return _result(trained, version=None, alias=None, promoted=False, reason=reason)


def _compete(trained: TrainedModel) -> dict[str, Any]:
    from pipelines.registry import promotion, versions
    from pipelines.registry.competition import competition
    from pipelines.tracking import runs

    client = runs.connect()
    evaluation, held_out = competition(trained)
    settings = trained.recipe.register_
    try:
        trained.run["run_id"] = runs.id_on_server(client, trained.run["run_id"])
        version = versions.add_version(client, trained, evaluation)
        again = promotion.remeasure(client, trained, evaluation, held_out)
        rule = promotion.Rule(settings.min_gain, settings.z)
        decision = promotion.promote(client, version, evaluation, rule, again)
        holder = versions.by_alias(client, version.name, versions.CHAMPION)
    except runs.server_errors() as error:
        raise runs.failure(client.tracking_uri, error) from error
    return _result(
        trained,
        version=str(version.version),
        alias=versions.CHAMPION if decision.promoted else versions.CANDIDATE,
        champion=str(holder.version) if holder else None,
        **decision._asdict(),
    )


def _result(trained: TrainedModel, **found: Any) -> dict[str, Any]:
    nothing = {"champion": None, "difference": None, "difference_se": None}
    return {
        "name": trained.recipe.register_.name,
        "split": trained.recipe.register_.split,
        **nothing,
        **found,
    }


if __name__ == "__main__":
    run(register)
