"""The members of the family: which module fills which slot for a configuration."""

from __future__ import annotations

from seqgen.models.attention import (
    AffineReader,
    AffineWriter,
    FullContext,
    FullReader,
    FullWriter,
    GaussianReader,
    GaussianWriter,
)
from seqgen.models.canvas import AdditiveCanvas, GatedCanvas
from seqgen.models.generator import SequentialGenerator
from seqgen.models.observation import ConvObservation, IdentityObservation
from seqgen.models.posterior import EncoderPosterior, SharedPosterior
from seqgen.models.slots import Posterior, Reader, Writer
from seqgen.models.transition import LstmCell
from seqgen.settings import ModelConfig


def _reader(config: ModelConfig, channels: int, height: int, width: int) -> Reader:
    match config.attention:
        case "spatial-transformer":
            return AffineReader(config.hidden, config.read_size, channels)
        case "gaussian":
            return GaussianReader(config.hidden, config.read_size, channels, height, width)
        case "full":
            return FullReader(channels, height, width)


def _writer(config: ModelConfig, height: int, width: int) -> Writer:
    channels = config.canvas_channels
    match config.attention:
        case "spatial-transformer":
            return AffineWriter(config.hidden, config.write_size, channels, height, width)
        case "gaussian":
            return GaussianWriter(config.hidden, config.write_size, channels, height, width)
        case "full":
            return FullWriter(config.hidden, channels, height, width)


def build(config: ModelConfig, height: int, width: int, mean: float = 0.5) -> SequentialGenerator:
    """The model of `config` for images of `height` x `width` whose mean pixel is `mean`.

    `mean` sets where the image starts: the output's bias is its logit.
    """
    reader = _reader(config, 2 if config.error_image else 1, height, width)
    context_reader: Reader | None = None
    if config.conditional:
        full = config.attention == "full"
        context_reader = FullContext(height, width) if full else _reader(config, 1, height, width)
    fixed = reader.fixed and not config.error_image
    if config.inference == "encoder":
        posterior: Posterior = EncoderPosterior(reader.features, config.hidden, config.latents, fixed)
    else:
        posterior = SharedPosterior(
            reader.features, config.hidden, config.posterior_hidden, config.latents, fixed
        )
    return SequentialGenerator(
        config,
        height,
        width,
        mean,
        reader=reader,
        writer=_writer(config, height, width),
        context_reader=context_reader,
        posterior=posterior,
        transition=LstmCell(
            config.latents + (context_reader.features if context_reader else 0), config.hidden
        ),
        canvas=GatedCanvas(config.canvas_channels) if config.canvas == "cgru" else AdditiveCanvas(),
        observation=(
            IdentityObservation(mean)
            if config.observation == "identity"
            else ConvObservation(config.canvas_channels, mean)
        ),
    )
