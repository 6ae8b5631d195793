"""The family of sequential generative models, as equations; `build` makes a member of the kinds its settings choose."""

from seqgen.models.build import build
from seqgen.models.files import load_model, save_model
from seqgen.models.model import Bound, Inference, SequentialModel, Trace

__all__ = ["Bound", "Inference", "SequentialModel", "Trace", "build", "load_model", "save_model"]
