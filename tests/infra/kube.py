"""Strict checks of the manifests in infra/kubernetes, without a cluster: an unknown field is an error."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.33"
_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_POD = {"type": "object"}  # checked against Kubernetes' own schema


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


# The fields of KubeRay 1.7's custom resources that a manifest of ours may have, after its definitions
# ray.io_rayclusters.yaml, ray.io_rayjobs.yaml, ray.io_raycronjobs.yaml and ray.io_rayservices.yaml in https://github.com/ray-project/kuberay.
_CLUSTER = _object(
    ("headGroupSpec",),
    rayVersion=_TEXT,
    authOptions=_object(mode={"enum": ["disabled", "token"]}, secretName=_TEXT, enableK8sTokenAuth=_FLAG),
    enableInTreeAutoscaling=_FLAG,
    suspend=_FLAG,
    headGroupSpec=_object(
        ("template",), template=_POD, rayStartParams=_TEXTS, serviceType=_TEXT, enableIngress=_FLAG
    ),
    workerGroupSpecs={
        "type": "array",
        "items": _object(
            ("groupName", "maxReplicas", "minReplicas", "template"),
            groupName=_TEXT,
            replicas=_NUMBER,
            minReplicas=_NUMBER,
            maxReplicas=_NUMBER,
            numOfHosts=_NUMBER,
            rayStartParams=_TEXTS,
            template=_POD,
        ),
    },
)
_JOB = _object(
    entrypoint=_TEXT,
    activeDeadlineSeconds=_NUMBER,
    backoffLimit=_NUMBER,
    clusterSelector=_TEXTS,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    metadata=_TEXTS,
    rayClusterSpec=_CLUSTER,
    runtimeEnvYAML=_TEXT,
    shutdownAfterJobFinishes=_FLAG,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterPodTemplate=_POD,
    suspend=_FLAG,
    ttlSecondsAfterFinished=_NUMBER,
)
_SPECS = {
    "RayCluster": _CLUSTER,
    "RayJob": _JOB,
    "RayCronJob": _object(
        ("jobTemplate", "schedule"),
        jobTemplate=_JOB,
        schedule={"type": "string", "pattern": r"^(\S+ ){4}\S+$"},
        suspend=_FLAG,
        timeZone={"type": "string", "minLength": 1},
    ),
    "RayService": _object(
        serveConfigV2=_TEXT,
        rayClusterConfig=_CLUSTER,
        excludeHeadPodFromServeSvc=_FLAG,
        rayClusterDeletionDelaySeconds=_NUMBER,
        upgradeStrategy=_object(type={"enum": ["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]}),
    ),
}


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a manifest."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def validate(document: dict[str, Any]) -> None:
    """Raise ValidationError (jsonschema's or kubernetes_validate's) if `document` is not valid."""
    if document["kind"] not in _SPECS:
        kubernetes_validate.validate(document, VERSION, strict=True)
        return
    spec = _SPECS[document["kind"]]
    metadata = _object(("name",), name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS)
    head = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": document["kind"]}, "metadata": metadata}
    jsonschema.validate(document, _object(("apiVersion", "kind", "metadata", "spec"), **head, spec=spec))
    for template in pod_templates(document):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": copy.deepcopy(template)}
        kubernetes_validate.validate(pod, VERSION, strict=True)


def pod_templates(tree: Any) -> Iterator[dict[str, Any]]:
    """Every pod template in `tree`, wherever it is."""
    if isinstance(tree, dict):
        if "containers" in tree.get("spec", ()):
            yield tree
        for value in tree.values():
            yield from pod_templates(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from pod_templates(value)
