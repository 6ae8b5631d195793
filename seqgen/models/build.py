"""Settings -> model: the kinds of the slots, made and put together."""

from __future__ import annotations

from typing import Any

from seqgen.models.contracts import Sizes
from seqgen.models.model import SequentialModel
from seqgen.models.steps.sequential import SequentialStep
from seqgen.settings import ModelConfig
from seqgen.settings.kinds import find


def build(config: ModelConfig, height: int, width: int, mean: float = 0.5) -> SequentialModel:
    """The model of `config` for images of `height` x `width` whose mean pixel is `mean`, where a drawing starts."""
    sizes = Sizes(height, width, config.steps, config.latents, config.hidden, config.canvas_channels, mean)

    def make(slot: str, *more: Any) -> Any:
        return find(slot, getattr(config, slot)).load()(config.of(slot), sizes, *more)

    attention, latents = make("attention"), make("latent")
    reader = attention.reader(2 if config.error_image else 1)
    context_reader = attention.context_reader() if config.conditional else None
    shown = context_reader.features if context_reader else 0
    step = SequentialStep(
        sizes,
        reader=reader,
        context_reader=context_reader,
        context=make("context") if context_reader else None,
        posterior=make(
            "inference",
            reader.features + (shown if config.infer_from_context else 0),
            latents.parameters_of_q,
        ),
        writer=attention.writer(),
        transition=make("transition", config.latents + shown),
        canvas=make("canvas"),
        observation=make("observation"),
        latents=latents,
        prior=make("prior", shown, latents.parameters_of_q),
        error_image=config.error_image,
        infer_from_context=config.infer_from_context,
    )
    return SequentialModel(config, sizes, step)
