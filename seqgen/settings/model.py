"""The model section of a recipe: a member of the family as a step, its sizes, and a kind for each slot it has."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from seqgen.core.strict import Positive
from seqgen.settings.section import OpenSection


class ModelConfig(OpenSection):
    """Whose equations a step follows and the sizes that all members share (docs/model.md). Defaults are the paper's."""

    slots: ClassVar[tuple[str, ...]] = ("step",)

    step: str = Field(default="sequential", description="whose equations one step follows")
    steps: int = Field(default=80, ge=1, le=1000, description="T, the number of drawing steps")
    latents: Positive = Field(default=4, description="K, the latents of one step z_t")
    hidden: Positive = Field(default=400, description="D, the size of h_t")
    conditional: bool = Field(default=False, description="draw given a context image x' (eq. 4)")
