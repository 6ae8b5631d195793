"""Whether a candidate becomes the champion: decided on the same held-out images, with the reason in words."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.artifacts.trained_model import TrainedModel
from pipelines.registry import moves, versions
from pipelines.registry.competition import measured
from pipelines.registry.evaluation import IMAGES, Evaluation, images_digest
from pipelines.registry.turns import turn
from seqgen.core.errors import BadInput, OperationalError
from seqgen.models.files import DESCRIPTION
from seqgen.serving.loading import fetch_model, fetch_part

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from seqgen.evaluation.bounds import HeldOut

Remeasure = Callable[["ModelVersion"], Evaluation]


class Rule(NamedTuple):
    """How much better a candidate must be: more than `min_gain` nats, and than `z` standard errors of it."""

    min_gain: float = 0.0
    z: float = 2.0


class Decision(NamedTuple):
    """difference: the champion's bound less the candidate's, nats (> 0: the candidate is better); its se."""

    promoted: bool
    reason: str
    difference: float | None = None
    difference_se: float | None = None


def decide(candidate: Evaluation, champion: Evaluation | None, title: str, rule: Rule) -> Decision:
    """Compare two evaluations on the same data; `title` names the champion in the reason.

    The candidate must be better by more than `rule.min_gain` nats and by more than noise: `rule.z` standard errors of
    the paired difference, over the candidate's clusters, and of G clusters as many more as Student's t with G - 1
    degrees of freedom is wider than the normal distribution. Equal is not better. A bound that is not finite never
    wins, and never defends.
    """
    from seqgen.evaluation.errors import cluster_count, estimate, t_quantile

    on = f" on {candidate.data['split']}" if "split" in candidate.data else ""
    if not math.isfinite(candidate.mean):
        return Decision(False, f"its held-out bound{on} is {candidate.mean}")
    if champion is None:
        return Decision(True, f"there was none; held-out bound {candidate.mean:.3f} nats{on}")
    if keys := candidate.differences(champion):
        return Decision(False, f"evaluated on other data than {title} ({', '.join(keys)} differ)")
    if not math.isfinite(champion.mean):
        return Decision(
            True, f"held-out bound {candidate.mean:.3f} nats{on}; that of {title} is {champion.mean}"
        )
    ids = candidate.clusters.ids if candidate.clusters else None
    difference, se = estimate(champion.bounds - candidate.bounds, ids)
    independent = cluster_count(ids) or len(candidate.bounds)
    z = rule.z * t_quantile(independent) / t_quantile(10**9)
    by = f"{'better' if difference > 0 else 'worse'} by {abs(difference):.3f} ± {se:.3f}"
    of = f", {independent} {candidate.clusters.kind}s" if candidate.clusters else ""
    found = (
        f"held-out bound {candidate.mean:.3f} nats{on} against {champion.mean:.3f} of {title}: "
        f"{by if difference else 'equal'} ({len(candidate.bounds)} paired images{of}); "
        f"asked: more than {rule.min_gain:g} nats and {z:.2f} standard errors"
    )
    return Decision(difference > max(rule.min_gain, z * se), found, difference, se)


def promote(
    client: MlflowClient,
    version: ModelVersion,
    candidate: Evaluation,
    rule: Rule,
    remeasure: Remeasure | None = None,
) -> Decision:
    """Decide on `version`, whose evaluation is `candidate`, and move the alias if it won.

    A compare-and-set: judged against the champion there is, and again if another was put there meanwhile.
    `remeasure` measures a champion on the candidate's images, where its own evaluation is of other ones. The decision
    is written down in the version's tags. Raises OperationalError, BadInput, MLflow's errors.
    """
    moves.settle(client, version.name)
    while True:
        champion = versions.by_alias(client, version.name, versions.CHAMPION)
        if champion is not None and champion.version == version.version:
            return Decision(True, "it is the champion already")
        decision = _judge(client, champion, candidate, rule, remeasure)
        if not decision.promoted:
            with turn(client, version.name):  # of two who write one tag at once, the server refuses one
                moves.note(client, version, "not promoted", promotion_reason=decision.reason)
            return decision
        if moves.crown(client, version, champion, decision.reason):
            return decision


def _judge(
    client: MlflowClient,
    champion: ModelVersion | None,
    candidate: Evaluation,
    rule: Rule,
    remeasure: Remeasure | None,
) -> Decision:
    if champion is None:
        return decide(candidate, None, "", rule)
    title = f"champion version {champion.version}"
    try:
        defended = versions.fetch_evaluation(client, champion)
        if candidate.differences(defended) and remeasure is not None:
            defended = remeasure(champion)
            title += " measured again"
        return decide(candidate, defended, title, rule)
    except (BadInput, OperationalError) as error:
        return Decision(False, f"{title} cannot be compared: {error}")


def remeasure(
    client: MlflowClient, trained: TrainedModel, candidate: Evaluation, held_out: HeldOut
) -> Remeasure:
    """Measures a champion as `candidate`, of `trained`, was measured: same images, binarisation, contexts and noise.

    It raises BadInput if the champion's own evaluation manifest has other images and the settings refuse those, or if
    it is a model of another kind.
    """

    def again(champion: ModelVersion) -> Evaluation:
        if trained.recipe.register_.other_images == "refuse":
            _same_images(client, trained, candidate, champion)
        return _measure_again(client, champion, trained, candidate, held_out)

    return again


def _same_images(
    client: MlflowClient, trained: TrainedModel, candidate: Evaluation, champion: ModelVersion
) -> None:
    from seqgen.data.manifest import read_manifest

    split = trained.recipe.register_.split
    with tempfile.TemporaryDirectory() as directory:
        path = fetch_part(client, champion, "artifacts/manifest.json", Path(directory))
        theirs, ours = images_digest(read_manifest(path.parent), split), candidate.data[IMAGES]
    if theirs != ours:
        raise BadInput(
            f"its evaluation manifest has other images ({split} {theirs[:12]}, here {ours[:12]}); if they are of one "
            "task, measure both on these: `seqgen register --recipe "
            f"{trained.recipe.name} --set register.other_images=measure`; if not, use another register.name"
        )


def _measure_again(
    client: MlflowClient,
    champion: ModelVersion,
    trained: TrainedModel,
    candidate: Evaluation,
    held_out: HeldOut,
) -> Evaluation:
    from seqgen.models import load_model

    with tempfile.TemporaryDirectory() as directory:
        model = fetch_model(client, champion, Path(directory))
        shape = json.loads((model / DESCRIPTION).read_text())
        theirs = (shape["height"], shape["width"], shape["config"]["conditional"])
        manifest, conditional = trained.manifest(), trained.recipe.model.conditional
        if theirs != (manifest.height, manifest.width, conditional):
            raise BadInput(
                f"it draws {theirs[0]}x{theirs[1]} images{' given a context' if theirs[2] else ''}, and the "
                f"evaluation has {manifest.height}x{manifest.width}{' with contexts' if conditional else ''}; "
                "use another register.name for another task"
            )
        return Evaluation(candidate.data, measured(load_model(model), held_out, trained.recipe.evaluate.seed))
