"""Every setting of a run, checked as a whole before anything starts, and the register of kinds. Knows no torch."""

from seqgen.data.settings import DataConfig
from seqgen.settings import catalogue  # noqa: F401  (registers)
from seqgen.settings.kinds import KindSettings, register
from seqgen.settings.model import ModelConfig
from seqgen.settings.overrides import build_recipe, flatten, parse_assignment, read_recipe, with_settings
from seqgen.settings.recipe import EvaluateConfig, Recipe, RegisterConfig, SearchConfig, TrainConfig

__all__ = [
    "DataConfig",
    "EvaluateConfig",
    "KindSettings",
    "ModelConfig",
    "Recipe",
    "RegisterConfig",
    "SearchConfig",
    "TrainConfig",
    "build_recipe",
    "flatten",
    "parse_assignment",
    "read_recipe",
    "register",
    "with_settings",
]
