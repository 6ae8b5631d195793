"""Whether a candidate becomes the champion: decided on the same held-out images, with the reason in words."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.artifacts.trained_model import TrainedModel
from pipelines.registry import versions
from pipelines.registry.evaluation import Evaluation
from seqgen.core.errors import BadInput, OperationalError
from seqgen.serving.loading import fetch_model

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from seqgen.evaluation.bounds import HeldOut


class Decision(NamedTuple):
    """difference: the champion's bound less the candidate's, nats (> 0: the candidate is better); its se."""

    promoted: bool
    reason: str
    difference: float | None = None
    difference_se: float | None = None


def decide(
    candidate: Evaluation,
    champion: Evaluation | None,
    title: str,
    min_gain: float,
    groups: torch.Tensor | None = None,
) -> Decision:
    """Compare two evaluations on the same data; `title` names the champion in the reason.

    `groups` (`seqgen.evaluation.bounds.groups_of`) tells which images are no independent evidence.

    The candidate must be better by more than `min_gain` nats; equal is not better. A bound that is not finite
    never wins, and never defends.
    """
    from seqgen.evaluation.errors import estimate

    if not math.isfinite(candidate.mean):
        return Decision(False, f"its held-out bound is {candidate.mean}")
    if champion is None:
        return Decision(True, f"the first of its name; held-out bound {candidate.mean:.3f} nats")
    if keys := candidate.differences(champion):
        return Decision(False, f"evaluated on other data than {title} ({', '.join(keys)} differ)")
    if not math.isfinite(champion.mean):
        return Decision(True, f"held-out bound {candidate.mean:.3f} nats; that of {title} is {champion.mean}")
    difference, se = estimate(champion.bounds - candidate.bounds, groups)
    by = f"{'better' if difference > 0 else 'worse'} by {abs(difference):.3f} ± {se:.3f}"
    found = (
        f"held-out bound {candidate.mean:.3f} nats against {champion.mean:.3f} of {title}: "
        f"{by if difference else 'equal'} "
        f"({len(candidate.bounds)} paired images); asked: more than {min_gain:g}"
    )
    return Decision(difference > min_gain, found, difference, se)


def promote(
    client: MlflowClient,
    version: ModelVersion,
    trained: TrainedModel,
    evaluation: Evaluation,
    held_out: HeldOut,
) -> Decision:
    """Decide on `version`, which is `trained` with its `evaluation` on `held_out`, and move the alias if it won.

    A compare-and-set: judged against the champion there is, and again if another was put there meanwhile. The
    decision is written down in the version's tags. Raises OperationalError, BadInput, MLflow's errors.
    """
    with versions.lock(client, version.name):
        while True:
            champion = versions.by_alias(client, version.name, versions.CHAMPION)
            decision = _judge(client, version, champion, trained, evaluation, held_out)
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
    held_out: HeldOut,
) -> Decision:
    min_gain = trained.recipe.register_.min_gain
    if champion is None:
        return decide(evaluation, None, "", min_gain)
    title = f"champion version {champion.version}"
    if champion.version == version.version:
        return Decision(True, "it is the champion already")
    try:
        defended = versions.fetch_evaluation(client, champion)
        if evaluation.differences(defended):
            defended = measure_again(client, champion, trained, evaluation, held_out)
            title += " measured again on the present data"
        return decide(evaluation, defended, title, min_gain, held_out.groups)
    except (BadInput, OperationalError) as error:
        return Decision(False, f"{title} cannot be compared: {error}")


def measure_again(
    client: MlflowClient,
    champion: ModelVersion,
    trained: TrainedModel,
    evaluation: Evaluation,
    held_out: HeldOut,
) -> Evaluation:
    """Measure the champion as the candidate was measured: same images, binarisation, contexts and noise.

    Raises BadInput if the champion is a model of other images.
    """
    from seqgen.evaluation.bounds import free_energies
    from seqgen.models import load_model

    config = trained.recipe.evaluate
    with tempfile.TemporaryDirectory() as directory:
        model = load_model(fetch_model(client, champion, Path(directory)))
    manifest = trained.manifest()
    conditional = trained.recipe.model.conditional
    theirs = (model.sizes.height, model.sizes.width, model.config.conditional)
    if theirs != (manifest.height, manifest.width, conditional):
        raise BadInput(
            f"it draws {theirs[0]}x{theirs[1]} images{' given a context' if theirs[2] else ''}, and the "
            f"evaluation has {manifest.height}x{manifest.width}{' with contexts' if conditional else ''}; "
            "use another register.name for another task"
        )
    return Evaluation(evaluation.data, free_energies(model, held_out, config.seed).free_energy)
