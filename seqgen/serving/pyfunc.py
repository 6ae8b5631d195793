"""The registered model as MLflow serves it: this file is stored with it and run when it is loaded."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PyFuncModel, PythonModel

from seqgen.models import load_model

_CHUNK = 128  # images drawn at once, as by the HTTP application: so the last bits are the same, too
_MOST = 10_000  # images of one call: seconds to minutes of a CPU


class Sampler(PythonModel):
    """Draws images. Returns the means of p(x | c_T), float32: of binary pixels the probability of ink, in [0, 1].

    Unconditional: input int64 [1], the number of images n -> [n, H, W].
    Conditional: input float32 [n, H, W] in [0, 1] (1 = ink), the context images -> [n, samples, H, W].
    Parameters: `samples` per context image (conditional only), `seed`. The same call gives the same images, and a
    context image those that it gets in a call by itself: the noise is drawn from the seed once, for all of them.
    A parameter of another name, input of another shape and more than 10,000 images are errors.
    """

    def load_context(self, context):
        """Read safetensors and JSON; on a GPU where there is one."""
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = load_model(Path(context.artifacts["model"])).to(self.device)

    @torch.inference_mode()
    def predict(self, context, model_input, params=None):
        """See the class."""
        conditional = self.model.config.conditional
        settings = {"seed": 0, **({"samples": 1} if conditional else {})}
        unknown = (params_given() or params or {}).keys() - settings.keys()
        _check(not unknown, f"the parameters {', '.join(settings)}", ", ".join(sorted(map(str, unknown))))
        settings |= params or {}
        _check(settings["seed"] >= 0, "a seed from 0", settings["seed"])
        generator = torch.Generator().manual_seed(int(settings["seed"]))
        given = np.asarray(model_input)
        if not conditional:
            _check(given.size == 1, "one number of images", f"{given.size} numbers")
            count = int(given.reshape(-1)[0])
            _check_count(count, f"{count}")
            return self._draw(self.model.noise(count, generator), None)
        height, width = self.model.sizes.height, self.model.sizes.width
        samples = int(settings["samples"])
        fits = given.ndim == 3 and given.shape[1:] == (height, width)
        _check(fits, f"context images [n, {height}, {width}]", f"{list(given.shape)}")
        _check_count(len(given) * samples, f"{len(given)} context images x {samples} samples")
        inside = given.min() >= 0 and given.max() <= 1
        _check(inside, "context images with values in [0, 1]", f"{given.min()} to {given.max()}")
        images = torch.from_numpy(given.astype(np.float32)).unsqueeze(1).to(self.device)
        drawn = self._draw(self.model.noise(samples, generator), images)
        return drawn.reshape(len(given), samples, height, width)

    def _draw(self, noise, images):
        """What each of `noise` [T,S,N] draws, [S,H,W]; with context images [n,1,H,W] for each of those, [nS,H,W]."""
        samples, contexts = noise.shape[1], 1 if images is None else len(images)
        parts = []
        for which in torch.arange(contexts * samples).split(_CHUNK):
            # what is read of a single one is computed once for all
            shown = images if contexts == 1 else images[which // samples]
            drawn = self.model.sample(noise[:, which % samples].to(self.device), shown)
            parts.append(drawn.squeeze(1).float().cpu())
        return torch.cat(parts).numpy()


def params_given():
    """The `params` that the caller of MLflow's `predict` wrote, {} if he wrote none, None if nobody called it.

    MLflow drops those that the signature has not, with a warning, before a model sees any: they are to be had from
    its frame alone.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is inspect.unwrap(PyFuncModel.predict).__code__:
            return frame.f_locals["params"] or {}
        frame = frame.f_back
    return None


def _check_count(count, given):
    remedy = "" if count < 1 else "; ask for fewer at a time, each time with another seed"
    _check(0 < count <= _MOST, f"1 to {_MOST:,} images in one call", f"{given}{remedy}")


def _check(fits, wanted, given):
    """Raise MLflow's error of a bad request, which its server answers with 400, unless it `fits`."""
    if not fits:
        raise MlflowException.invalid_parameter_value(f"the model takes {wanted}, not {given}")


set_model(Sampler())
