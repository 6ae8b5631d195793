"""The model that is served: what it is called, what it is, what can be asked of it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seqgen.api import Model
from seqgen.core.errors import BadInput, NumericalError, OperationalError, SeqgenError
from seqgen.data.manifest import FILE_NAME as MANIFEST
from seqgen.data.manifest import read_manifest
from seqgen.evaluation.imputation import pixel_log_prob
from seqgen.models import SequentialModel, load_model
from seqgen.serving.http.tasks import noise_of
from seqgen.serving.loading import MANIFEST_TAG, fetch_model, fetch_part, find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_RECIPE = "recipe.json"


@dataclass(frozen=True)
class Served:
    """A model on the device it computes on. `version` is the registry's, None of a directory.

    `trained_on` is the digest of the manifest of all that its weights were learned from, None where it is not known.
    """

    module: SequentialModel
    name: str
    version: str | None
    source: str
    attention: bool
    imputation: bool
    trained_on: str | None

    @property
    def title(self) -> str:
        """Its name and version, as answers say them."""
        return f"{self.name}/{self.version}" if self.version else self.name

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        return self.module.sizes.height, self.module.sizes.width

    @property
    def conditional(self) -> bool:
        """Whether it draws given a context."""
        return self.module.config.conditional

    @cached_property
    def binary(self) -> bool:
        """Whether its likelihood is of pixels that are 0 or 1."""
        return Model(self.module).binary

    @property
    def gaussian(self) -> bool:
        """Whether all noise is: it can be scaled, and there is a way between two drawings."""
        return self.module.step.normal_noise

    @cached_property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(each.numel() for each in self.module.parameters())

    def noise(self, count: int, seed: int, temperature: float = 1.0) -> Tensor:
        """The noise of `count` drawings scaled by `temperature`, [T,count,N]. Raises BadInput where it cannot be."""
        if temperature != 1 and not self.gaussian:
            raise BadInput(
                f"temperature={temperature:g}: not all of this model's noise is Gaussian; leave it at 1"
            )
        return temperature * noise_of(self.module, count, seed)

    def tensor(self, images: np.ndarray) -> Tensor:
        """Images as a tensor where the model is."""
        return torch.from_numpy(images).to(next(self.module.parameters()).device)


def load_source(source: str) -> Served:
    """What `seqgen.load` takes, loaded and tried. Raises as that, NumericalError where it draws what is no number."""
    if not source.startswith("models:"):
        directory = Path(source).resolve()
        return _tried(load_model(Path(source)), directory.name, None, source, _trained_on(directory.parent))
    from mlflow import MlflowClient

    client = MlflowClient()
    version = find_version(client, source)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        module = load_model(fetch_model(client, version, directory))
        trained_on = _trained_on_of(client, version, directory)
    return _tried(module, version.name, str(version.version), source, trained_on)


def newest(source: str) -> str | None:
    """The version that `source` names now, None of a directory. Raises as `load_source`."""
    if not source.startswith("models:"):
        return None
    from mlflow import MlflowClient

    return str(find_version(MlflowClient(), source).version)


def _trained_on_of(client: MlflowClient, version: ModelVersion, into: Path) -> str | None:
    """`_trained_on` of a registered version; None, too, if the registry's record says otherwise."""
    try:
        kept = [fetch_part(client, version, f"artifacts/{part}", into) for part in (_RECIPE, MANIFEST)]
    except OperationalError:
        return None
    found = _trained_on(kept[0].parent)
    return found if found == version.tags.get(MANIFEST_TAG) else None


def _trained_on(directory: Path) -> str | None:
    """The digest of what a model was trained on, by the recipe and the manifest that were kept beside it.

    None if they were not, or if its weights were a champion's before: what that one had seen they do not say.
    """
    try:
        initial = json.loads((directory / _RECIPE).read_text())["train"].get("initial", "random")
        return read_manifest(directory).digest if initial == "random" else None
    except (SeqgenError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _tried(
    module: SequentialModel, name: str, version: str | None, source: str, trained_on: str | None
) -> Served:
    """The model on its device, after one drawing and one look at what it says of pixels."""
    module = module.to("cuda" if torch.cuda.is_available() else "cpu")
    noise = noise_of(module, 1, 0)
    blank = torch.zeros(1, 1, module.sizes.height, module.sizes.width, device=noise.device)
    context = blank if module.config.conditional else None
    drawn = module.trace(noise, None, context)
    if not drawn.canvas.isfinite().all():
        raise NumericalError(f"{source}: it draws what is no number; train again")
    try:
        with torch.inference_mode():
            pixel_log_prob(module.infer(blank, context, noise).likelihood, blank)
        imputation = True
    except BadInput:  # pixels are not independent given z
        imputation = False
    windows = (drawn.write, drawn.context_read)
    attention = any(each is not None for each in windows)
    return Served(module, name, version, source, attention, imputation, trained_on)
