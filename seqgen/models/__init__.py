"""The family of sequential generative models; `build` makes a member from its configuration."""

from seqgen.models.files import load_model, save_model
from seqgen.models.generator import Bound, Inference, SequentialGenerator, State, Trace
from seqgen.models.members import build

__all__ = ["Bound", "Inference", "SequentialGenerator", "State", "Trace", "build", "load_model", "save_model"]
