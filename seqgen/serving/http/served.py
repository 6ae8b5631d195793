"""The model that is served: what it is called, what it is, what can be asked of it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqgen.api import Model
from seqgen.core.errors import BadInput, NumericalError
from seqgen.evaluation.imputation import pixel_log_prob
from seqgen.models import SequentialModel, load_model
from seqgen.serving.http.tasks import noise_of
from seqgen.serving.loading import fetch_model, find_version


@dataclass(frozen=True)
class Served:
    """A model on the device it computes on. `version` is the registry's, None of a directory."""

    module: SequentialModel
    name: str
    version: str | None
    source: str
    attention: bool
    imputation: bool

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
        return _tried(load_model(Path(source)), Path(source).resolve().name, None, source)
    from mlflow import MlflowClient

    client = MlflowClient()
    version = find_version(client, source)
    with tempfile.TemporaryDirectory() as directory:
        module = load_model(fetch_model(client, version, Path(directory)))
    return _tried(module, version.name, str(version.version), source)


def newest(source: str) -> str | None:
    """The version that `source` names now, None of a directory. Raises as `load_source`."""
    if not source.startswith("models:"):
        return None
    from mlflow import MlflowClient

    return str(find_version(MlflowClient(), source).version)


def _tried(module: SequentialModel, name: str, version: str | None, source: str) -> Served:
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
    return Served(module, name, version, source, any(each is not None for each in windows), imputation)
