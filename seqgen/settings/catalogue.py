"""The package's own kinds: the settings of each, and where its class is, which is not imported before it is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from seqgen.core.strict import Positive
from seqgen.settings.kinds import KindSettings, register


class SequentialSettings(KindSettings):
    """The paper's step: its canvas and its slots. Defaults are the paper's."""

    canvas_channels: Positive = 4
    attention: str = Field(default="spatial-transformer", description="how x is read and the canvas written")
    canvas: str = Field(default="cgru", description="how what is written joins the canvas")
    transition: str = Field(default="lstm", description="h_t from h_{t-1}, z_t and the context")
    latent: str = Field(default="gaussian", description="what z_t is")
    prior: str = Field(
        default="standard-normal", description="where z_t comes from without x; of bits Bernoulli(1/2)"
    )
    context: str = Field(default="mean", description="which image is read of several contexts")
    inference: str = Field(
        default="shared", description="posterior from h_{t-1} (the paper) or from an encoder LSTM (DRAW)"
    )
    observation: str = Field(default="conv", description="f_o: 1x1 convolution or c_T itself")
    error_image: bool = Field(default=False, description="read x - x_hat_{t-1} beside x (DRAW)")
    infer_from_context: bool = Field(
        default=False, description="the posterior sees v_t beside the glimpse of x"
    )

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """No setting of a context without one."""
        if not section.conditional:
            for key in ("context", "infer_from_context"):
                if (value := getattr(self, key)) != type(self).model_fields[key].default:
                    yield f"{key}={value}: only for conditional=true; leave it out"


def _shown_no_context(section: Any) -> Iterator[str]:
    if section.conditional:
        yield f"conditional=true: step={section.step} is shown no context; use step=sequential"


class LayersSettings(KindSettings):
    """Layers of latents, each with weights of its own: the encoder and decoder between them and the image."""

    canvas_channels: Positive = 1
    latent: str = Field(default="gaussian", description="what z_t is")
    prior: str = Field(
        default="standard-normal", description="where z_t comes from without x; of bits Bernoulli(1/2)"
    )
    transition: str = Field(default="residual", description="h_t from h_{t-1} and z_t")
    inference: str = Field(default="shared", description="whether q(z_t | .) is told of the layers above")
    observation: str = Field(default="identity", description="p(x | canvas)")
    encoder_hidden: Positive = Field(default=200, description="width of what all layers see of x")
    decoder_hidden: int = Field(default=200, ge=0, description="width of the decoder; 0: it is linear")

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """What goes with layers."""
        yield from _shown_no_context(section)
        if self.inference == "encoder":
            yield "inference=encoder: a layer's posterior has no memory; use shared or mean-field"
        if self.transition == "lstm":
            yield "transition=lstm: a layer is passed once and remembers nothing; use residual or latent"


class LatentTransitionSettings(KindSettings):
    """None, but h_t is z_t."""

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """Both are of one size."""
        if section.conditional:
            yield "transition=latent: h_t is z_t alone, and conditional=true has v_t; use another"
        if section.hidden != section.latents:
            yield f"transition=latent: h_t is z_t, so hidden={section.hidden} must be latents={section.latents}"


class AutoregressivePriorSettings(KindSettings):
    """None, but it is of bits, a layer at a time."""

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """What it can stand with."""
        if section.step != "layers" or section.latent != "bernoulli":
            yield "prior=autoregressive: only for step=layers with latent=bernoulli; use learned"


class ConvolutionalSettings(KindSettings):
    """Convolutional DRAW: its canvas, the coarseness of its maps and its slots."""

    canvas_channels: Positive = 16
    scale: int = Field(default=4, ge=2, description="pixels a side of one place of the maps of h and z; even")
    latent: str = Field(default="gaussian", description="what z_t is")
    observation: str = Field(default="conv", description="f_o: 1x1 convolution or c_T itself")

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """Places tile the image; there is no context."""
        yield from _shown_no_context(section)
        if self.scale % 2:
            yield f"scale={self.scale}: must be even"
        if size is not None and size % self.scale:
            yield f"scale={self.scale} does not divide data.size={size}"


class CompositedSettings(KindSettings):
    """The composited VAE: its sprites, and how far from its canonical pose a layer may lie."""

    sprite_size: Positive = Field(
        default=28, description="side of a layer's sprite, and of it in its canonical pose"
    )
    shift_sd: float = Field(
        default=0.4, gt=0, description="sd of a sprite's place, in halves of the image's side"
    )
    scale_sd: float = Field(default=0.1, gt=0, description="sd of the logarithm of a sprite's size")
    observation: str = Field(default="composite", description="f_o: the layers on a background")

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """A sprite is no larger than the image; there is no context; only one observation takes layers."""
        yield from _shown_no_context(section)
        if self.observation != "composite":
            yield f"observation={self.observation}: step=composited has layers; use composite"
        if size is not None and self.sprite_size > size:
            yield f"sprite_size={self.sprite_size} exceeds data.size={size}"


class AirSettings(KindSettings):
    """Attend, infer, repeat: what is believed of an object before it is seen, and the sizes of its networks."""

    discrete: ClassVar[bool] = True

    presence: float = Field(
        default=0.01, gt=0, lt=1, description="prior probability that there is one object more"
    )
    object_scale: float = Field(default=0.45, gt=0, description="an object's side, as a share of the image's")
    scale_std: float = Field(default=0.1, gt=0, description="prior deviation of the logarithm of that side")
    place_std: float = Field(
        default=0.4, gt=0, description="prior deviation of an object's centre, 1 is half an image's side"
    )
    object_size: Positive = Field(default=20, description="side of an object's glimpse and sprite")
    object_hidden: Positive = Field(
        default=200, description="width of what reads a glimpse and draws a sprite"
    )
    observation: str = Field(default="identity", description="f_o: c_T itself or a 1x1 convolution")

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """A glimpse is no larger than the image; there is no context."""
        yield from _shown_no_context(section)
        if size is not None and self.object_size > size:
            yield f"object_size={self.object_size} exceeds data.size={size}"


class WindowSettings(KindSettings):
    """The sides of the windows that attention reads and writes through."""

    read_size: Positive = Field(default=12, description="side of the glimpse")
    write_size: Positive = Field(default=12, description="side of the sprite")
    windows: Positive = Field(
        default=1, description="J, windows at once: J glimpses side by side, and a sum of J sprites"
    )

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """A window is no larger than the image."""
        if size is not None:
            for key in ("read_size", "write_size"):
                if (side := getattr(self, key)) > size:
                    yield f"{key}={side} exceeds data.size={size}"


class AffineWindowSettings(WindowSettings):
    """And how finely an affine window is read."""

    samples: Positive = Field(
        default=1,
        description="samples a side of each of a glimpse's pixels, averaged: 2 sees what lies between the pixels of a "
        "window twice as wide as its glimpse",
    )
    copy_grid: int = Field(
        default=0,
        ge=0,
        description="control points a side of the grid that bends x' before it is drawn again on the canvas; 0: it is "
        "not drawn again",
    )

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """There is something to copy."""
        yield from super().problems(section, size)
        if self.copy_grid and not section.conditional:
            yield f"copy_grid={self.copy_grid}: only for conditional=true; leave it out"


class ErrorWindowSettings(AffineWindowSettings):
    """The same, but x is read where the reconstruction is worst."""

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """There is an error to look for, and a place for every window."""
        yield from super().problems(section, size)
        if not section.error_image:
            yield "attention=error reads where the error is: it needs error_image=true"
        if size is not None and (places := len(window_places(size, self.read_size)) ** 2) < self.windows:
            yield f"windows={self.windows}: at read_size={self.read_size} attention=error has {places} places"


def window_places(size: int, side: int) -> list[int]:
    """First pixels of windows of `side` pixels half a side apart that cover `size` pixels; the last may be nearer."""
    return [*range(0, size - side, max(1, side // 2)), size - side]


class SharedPosteriorSettings(KindSettings):
    """The posterior's own network."""

    posterior_hidden: Positive = Field(default=256, description="width of the posterior's MLP")


class ObservationSettings(KindSettings):
    """What pixels an observation is of; `data.binarise` must give such (Recipe). A kind that does not say takes all."""

    pixels: ClassVar[Literal["binary", "grey"]] = "binary"


class DensitySettings(ObservationSettings):
    """A density of pixels in [0,1]."""

    pixels = "grey"


class LogitNormalSettings(DensitySettings):
    """How far from infinity the logit of a black and of a white pixel stays."""

    logit_alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="y = logit(alpha + (1 - 2 alpha) x) is Gaussian"
    )


class IdentityObservationSettings(ObservationSettings):
    """None, but it asks for a canvas of one channel."""

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """The canvas is the logits."""
        if (channels := getattr(section, "canvas_channels", 1)) != 1:
            yield f"observation={section.observation} needs canvas_channels=1, not {channels}"


class LocalObservationSettings(ObservationSettings):
    """How far a pixel looks at those before it, and the network that looks."""

    pixel_window: int = Field(default=7, ge=3, description="side of the window of pixels before; odd")
    pixel_hidden: Positive = Field(default=32, description="width of the network of every pixel")
    pixel_layers: Positive = Field(default=2, description="its hidden layers")

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """A window has a middle."""
        if self.pixel_window % 2 == 0:
            yield f"pixel_window={self.pixel_window}: must be odd; take {self.pixel_window + 1}"


class CompositeObservationSettings(ObservationSettings):
    """None, but it is of layers."""

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """Who has layers."""
        if section.step != "composited":
            yield f"observation=composite: only for step=composited; step={section.step} takes conv"


class PathwiseSettings(KindSettings):
    """How the free energy is approached."""

    kl_warmup_steps: int = Field(default=0, ge=0, description="steps over which the KL's weight rises to 1")


class ScoreFunctionSettings(KindSettings):
    """The baseline, and what becomes of what it leaves."""

    baseline_hidden: Positive = Field(default=128, description="width of the baseline's network")
    baseline_rate: float = Field(
        default=10.0, gt=0, description="the baseline's learning rate, as a multiple of the model's"
    )
    normalise: bool = Field(
        default=True,
        description="divide the loss by the running deviation of what the baseline leaves, if above 1",
    )


class ImportanceWeightedSettings(KindSettings):
    """How many samples the bound has."""

    importance_samples: int = Field(default=5, ge=2, le=1000, description="k, the posterior samples an image")


class DiscreteSettings(KindSettings):
    """None, but no gradient flows through what it draws."""

    discrete: ClassVar[bool] = True


for _slot, _name, _implementation, _settings in (
    ("step", "sequential", "steps.sequential:SequentialStep", SequentialSettings),
    ("step", "layers", "steps.layers:LayersStep", LayersSettings),
    ("step", "convolutional", "steps.convolutional:ConvolutionalStep", ConvolutionalSettings),
    ("step", "composited", "steps.composited:CompositedStep", CompositedSettings),
    ("step", "air", "steps.air:AttendInferRepeat", AirSettings),
    (
        "attention",
        "spatial-transformer",
        "attention.spatial_transformer:SpatialTransformer",
        AffineWindowSettings,
    ),
    ("attention", "similarity", "attention.spatial_transformer:Similarity", AffineWindowSettings),
    ("attention", "axis-aligned", "attention.spatial_transformer:AxisAligned", AffineWindowSettings),
    ("attention", "error", "attention.error:ErrorAttention", ErrorWindowSettings),
    ("attention", "random", "attention.randomised:RandomAttention", AffineWindowSettings),
    ("attention", "gaussian", "attention.gaussian:GaussianAttention", WindowSettings),
    ("attention", "full", "attention.full:FullAttention", KindSettings),
    ("canvas", "additive", "canvases:AdditiveCanvas", KindSettings),
    ("canvas", "cgru", "canvases:GatedCanvas", KindSettings),
    ("transition", "lstm", "transitions:Lstm", KindSettings),
    ("transition", "residual", "transitions:Residual", KindSettings),
    ("transition", "latent", "transitions:Latent", LatentTransitionSettings),
    ("latent", "gaussian", "latents:GaussianLatents", KindSettings),
    ("latent", "bernoulli", "latents:BernoulliLatents", DiscreteSettings),
    ("prior", "standard-normal", "priors:StandardNormal", KindSettings),
    ("prior", "learned", "priors:LearnedPrior", KindSettings),
    ("prior", "autoregressive", "priors:AutoregressivePrior", AutoregressivePriorSettings),
    ("context", "mean", "contexts:MeanContext", KindSettings),
    ("context", "attention", "contexts:AttentiveContext", KindSettings),
    ("inference", "shared", "posteriors:SharedPosterior", SharedPosteriorSettings),
    ("inference", "mean-field", "posteriors:MeanFieldPosterior", SharedPosteriorSettings),
    ("inference", "encoder", "posteriors:EncoderPosterior", KindSettings),
    ("observation", "conv", "observations:ConvObservation", ObservationSettings),
    ("observation", "identity", "observations:IdentityObservation", IdentityObservationSettings),
    (
        "observation",
        "autoregressive",
        "autoregression:AutoregressiveObservation",
        IdentityObservationSettings,
    ),
    ("observation", "local-autoregressive", "autoregression:LocalObservation", LocalObservationSettings),
    ("observation", "composite", "observations:CompositeObservation", CompositeObservationSettings),
    ("observation", "gaussian", "densities:GaussianObservation", DensitySettings),
    ("observation", "logit-normal", "densities:LogitNormalObservation", LogitNormalSettings),
):
    register(_slot, _name, f"seqgen.models.{_implementation}", _settings)
for _name, _implementation, _settings in (
    ("pathwise", "pathwise:Pathwise", PathwiseSettings),
    ("score-function", "score_function:ScoreFunction", ScoreFunctionSettings),
    ("iwae", "iwae:ImportanceWeighted", ImportanceWeightedSettings),
):
    register("objective", _name, f"seqgen.objectives.{_implementation}", _settings)
