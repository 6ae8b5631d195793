"""Settings -> model: the kinds of the slots, made and put together."""

from __future__ import annotations

import threading
from typing import Any

from seqgen.models.contracts import Sizes
from seqgen.models.model import SequentialModel
from seqgen.settings import ModelConfig
from seqgen.settings.kinds import find

# Held by who draws from torch's global generator: a server builds one model in a thread while another samples pixels.
GLOBAL_GENERATOR = threading.RLock()


def build(config: ModelConfig, height: int, width: int, mean: float = 0.5) -> SequentialModel:
    """The model of `config` for images of `height` x `width` whose mean pixel is `mean`, where a drawing starts."""
    channels = getattr(config, "canvas_channels", 1)
    sizes = Sizes(height, width, config.steps, config.latents, config.hidden, channels, mean)

    def make(slot: str, *more: Any, sizes: Sizes = sizes) -> Any:
        return find(slot, getattr(config, slot)).load()(config.of(slot), sizes, *more)

    with GLOBAL_GENERATOR:
        step = find("step", config.step).load()(config, sizes, make)
    return SequentialModel(config, sizes._replace(latents=step.latents.size), step)
