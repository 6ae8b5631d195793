"""The model section of a recipe: a member of the family as sizes and a kind for each slot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from seqgen.core.strict import Positive
from seqgen.settings.section import OpenSection


class ModelConfig(OpenSection):
    """The sizes that all slots share, and which kind stands in each (docs/model.md). Defaults are the paper's."""

    slots: ClassVar[tuple[str, ...]] = (
        "attention",
        "canvas",
        "transition",
        "latent",
        "prior",
        "context",
        "inference",
        "observation",
    )

    steps: int = Field(default=80, ge=1, le=1000, description="T, the number of drawing steps")
    latents: Positive = Field(default=4, description="K, the latents of one step z_t")
    hidden: Positive = Field(default=400, description="D, the size of h_t")
    canvas_channels: Positive = 4
    attention: str = Field(default="spatial-transformer", description="how x is read and the canvas written")
    canvas: str = Field(default="cgru", description="how what is written joins the canvas")
    transition: str = Field(default="lstm", description="h_t from h_{t-1}, z_t and the context")
    latent: str = Field(default="gaussian", description="what z_t is")
    prior: str = Field(default="standard-normal", description="where z_t comes from without x")
    context: str = Field(default="mean", description="which image is read of several contexts")
    inference: str = Field(
        default="shared", description="posterior from h_{t-1} (the paper) or from an encoder LSTM (DRAW)"
    )
    observation: str = Field(default="conv", description="f_o: 1x1 convolution or c_T itself")
    error_image: bool = Field(default=False, description="read x - x_hat_{t-1} beside x (DRAW)")
    conditional: bool = Field(default=False, description="draw given a context image x' (eq. 4)")
    infer_from_context: bool = Field(
        default=False, description="the posterior sees v_t beside the glimpse of x"
    )

    def problems(self, size: int | None = None) -> Iterator[str]:
        """See OpenSection; and no setting of a context without one."""
        yield from super().problems(size)
        if not self.conditional:
            for key in ("context", "infer_from_context"):
                if (value := getattr(self, key)) != type(self).model_fields[key].default:
                    yield f"{key}={value}: only for conditional=true; leave it out"
