"""The family of sequential generative models; `build` makes a member from its settings."""

from seqgen.models.build import build
from seqgen.models.files import load_model, save_model
from seqgen.models.model import Bound, Inference, SequentialModel, Trace

__all__ = ["Bound", "Inference", "SequentialModel", "Trace", "build", "load_model", "save_model"]
