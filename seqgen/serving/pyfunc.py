"""The registered model as MLflow serves it: this file is stored with it and run when it is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from seqgen.models import load_model

_CHUNK = 250  # images drawn at once
_MOST = 100_000  # images of one call


class Sampler(PythonModel):
    """Draws images. Returns the means of p(x | c_T), float32: of binary pixels the probability of ink, in [0, 1].

    Unconditional: input int64 [1], the number of images n -> [n, H, W].
    Conditional: input float32 [n, H, W] in [0, 1] (1 = ink), the context images -> [n, samples, H, W].
    Parameters: `samples` per context image (conditional only), `seed`. The same call gives the same images.
    """

    def load_context(self, context):
        """Read safetensors and JSON; on a GPU where there is one."""
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_model(Path(context.artifacts["model"])).to(self.device)

    @torch.inference_mode()
    def predict(self, context, model_input, params=None):
        """See the class."""
        settings = {"samples": 1, "seed": 0, **(params or {})}
        generator = torch.Generator().manual_seed(int(settings["seed"]))
        given = np.asarray(model_input)
        if not self.model.config.conditional:
            count = int(given.reshape(-1)[0])
            _check(given.size == 1 and 0 < count <= _MOST, f"one number of images from 1 to {_MOST}")
            return self._draw(count, None, generator)
        height, width = self.model.sizes.height, self.model.sizes.width
        samples = int(settings["samples"])
        _check(
            given.ndim == 3 and given.shape[1:] == (height, width), f"context images [n, {height}, {width}]"
        )
        _check(
            len(given) > 0 and given.min() >= 0 and given.max() <= 1, "context images with values in [0, 1]"
        )
        _check(
            samples > 0 and len(given) * samples <= _MOST, f"samples >= 1 and at most {_MOST} images in all"
        )
        images = torch.from_numpy(given.astype(np.float32)).unsqueeze(1).repeat_interleave(samples, 0)
        return self._draw(len(images), images, generator).reshape(len(given), samples, height, width)

    def _draw(self, count, images, generator):
        parts = []
        for start in range(0, count, _CHUNK):
            size = min(_CHUNK, count - start)
            noise = self.model.noise(size, generator).to(self.device)
            part = None if images is None else images[start : start + size].to(self.device)
            parts.append(self.model.sample(noise, part).squeeze(1).float().cpu())
        return torch.cat(parts).numpy()


def _check(fits, wanted):
    if not fits:
        raise ValueError(f"the model takes {wanted}")


set_model(Sampler())
