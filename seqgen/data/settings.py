"""Settings of a data set: where it comes from, how it is cut, and how it becomes binary or stays grey."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from seqgen.core.strict import Seed, Strict

Source = Literal[
    "mnist",
    "binarized-mnist",
    "mnist-5k",
    "multi-mnist",
    "multi-mnist-5k",
    "omniglot",
    "omniglot-strokes",
    "folder",
]
SplitRule = Literal["standard", "weak", "30-20", "40-10", "45-5", "concepts"]
ShrinkRule = Literal["strokes", "nearest"]
Binarise = Literal["static", "dynamic", "threshold", "grey"]
Pairs = Literal["character", "alphabet"]  # what a context shares with its image
Paper = Literal["light", "dark", "auto"]

_SIZES = {
    "mnist": (28,),
    "binarized-mnist": (28,),
    "mnist-5k": (28,),
    "multi-mnist": (50, 64),
    "multi-mnist-5k": (50, 64),
    "omniglot": (28, 52),
    "omniglot-strokes": (28, 52),
    "folder": range(4, 257),
}
AUTO_SIZES = range(4, 65, 4)  # what `size` `auto` may be: above, a step costs too much to be chosen unasked
_APART = {50: 2, 64: 4}  # how many digits of MNIST find places without overlap, by the side of the canvas


class DataConfig(Strict):
    """One data set as it is sharded and read.

    `binarise` says how pixels become 0 or 1: `static` (the files are binary already), `dynamic` (grey levels
    are Bernoulli probabilities, drawn anew each time from the run's seed), `threshold` (grey > 0.5); or that they stay
    `grey`: level v is anywhere in its bin, x = (v + u) / 256, u uniform, drawn anew as for `dynamic`. `rule` says
    how Omniglot's drawings are made smaller: `strokes` breaks none, `nearest` at 28 is what published few-shot tables
    are on. `path` is the folder of the source of that name. Its images are split one by one (`standard`),
    or its subfolders are characters, each wholly in one split (`concepts`). With `binarise` `static` a pixel of its
    drawings is ink above `threshold`, once and for all, when they are sharded.
    """

    source: Source
    size: int | Literal["auto"] = Field(
        description="side of the images in pixels; auto (source=folder): the median of their longer sides, rounded up "
        "to a multiple of 4, at most 64"
    )
    split: SplitRule = "standard"
    rule: ShrinkRule = "strokes"
    binarise: Binarise
    seed: Seed = Field(
        default=0, description="seed of what is generated (multi-mnist) or split at random (folder)"
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        description="where the images of source=folder lie: a folder, or s3://bucket/prefix",
    )
    paper: Paper = Field(
        default="light",
        description="what the images of source=folder are drawn on, dark ink on light or light ink on dark; "
        "auto: what most of their edges show",
    )
    threshold: Annotated[int, Field(ge=0, le=254)] | Literal["auto"] = Field(
        default="auto",
        description="source=folder with binarise=static: a level (0 paper, 255 ink) above it is ink; "
        "auto: Otsu's of the training images",
    )
    digits: tuple[Annotated[int, Field(ge=0, le=5)], ...] = Field(
        default=(2,),
        min_length=1,
        strict=False,
        description="How many digits lie on a canvas of multi-mnist: one of these, all as often.",
    )
    overlap: bool = Field(default=True, description="Whether the digits of multi-mnist may overlap.")

    @property
    def side(self) -> int:
        """The side of its images in pixels; of `size` `auto` the most it may be: which it is, the manifest says."""
        return AUTO_SIZES[-1] if self.size == "auto" else self.size

    @property
    def is_omniglot(self) -> bool:
        """Whether the set has alphabets and characters (the real one or the stand-in)."""
        return self.source in ("omniglot", "omniglot-strokes")

    @property
    def is_grey(self) -> bool:
        """Whether the shards hold grey levels (256) and not bits."""
        return self.source in ("mnist", "mnist-5k", "folder") and not self.is_thresholded

    @property
    def is_thresholded(self) -> bool:
        """Whether a folder's images become bits when they are sharded."""
        return self.source == "folder" and self.binarise == "static"

    @property
    def has_characters(self) -> bool:
        """Whether splits are of whole characters (concepts), each of several drawings."""
        return self.is_omniglot or self.split == "concepts"

    @property
    def pixels(self) -> Literal["binary", "grey"]:
        """What the pixels are that a model sees."""
        return "grey" if self.binarise == "grey" else "binary"

    @property
    def is_multi_mnist(self) -> bool:
        """Whether an image is a canvas on which digits lie."""
        return self.source in ("multi-mnist", "multi-mnist-5k")

    @property
    def has_counts(self) -> bool:
        """Whether images differ in how many digits lie on them, which then is their concept."""
        return self.is_multi_mnist and len(self.digits) > 1

    @property
    def held_out_metric(self) -> str:
        """The name of what trainings are compared by: the held-out free energy, nats per image, lower is better."""
        return f"valid/{self.binarise}/free_energy"

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        problems = []
        if self.size not in _SIZES[self.source] and (self.size, self.source) != ("auto", "folder"):
            sizes = _SIZES[self.source]
            known = f"{sizes[0]} to {sizes[-1]}, or auto" if len(sizes) > 2 else " or ".join(map(str, sizes))
            problems.append(f"size={self.size}: {self.source} has {known}")
        if self.is_omniglot and self.split == "standard":
            problems.append(f"split=standard: {self.source} has weak, 30-20, 40-10 or 45-5")
        if self.is_omniglot and self.split == "concepts":
            problems.append(f"split=concepts: {self.source} has weak, 30-20, 40-10 or 45-5")
        if self.source == "folder" and self.split not in ("standard", "concepts"):
            problems.append(f"split={self.split}: folder has standard or concepts")
        if not self.is_omniglot and self.source != "folder" and self.split != "standard":
            problems.append(f"split={self.split}: {self.source} has only standard")
        if not self.is_omniglot and self.rule != "strokes":
            problems.append(f"rule={self.rule}: only Omniglot's drawings are made smaller; leave it out")
        if self.is_grey and self.binarise == "static":
            problems.append(
                f"binarise=static: {self.source} is grey; use dynamic, threshold or grey, "
                "or source=binarized-mnist for Larochelle's fixed files"
            )
        if not self.is_grey and self.binarise != "static":
            problems.append(f"binarise={self.binarise}: {self.source} is binary already; use static")
        if self.seed and not (self.is_multi_mnist or self.source == "folder"):
            problems.append(f"seed={self.seed}: nothing of {self.source} is made from it; leave it out")
        if self.path is None and self.source == "folder":
            problems.append("path: source=folder needs the folder that the images lie in")
        if self.path is not None and self.source != "folder":
            problems.append(f"path={self.path}: only for source=folder; leave it out")
        if self.paper != "light" and self.source != "folder":
            problems.append(f"paper={self.paper}: only for source=folder; leave it out")
        if self.threshold != "auto" and not self.is_thresholded:
            problems.append(
                f"threshold={self.threshold}: only for source=folder with binarise=static; leave it out"
            )
        if self.is_multi_mnist:
            problems += self._digit_problems()
        elif self.digits != (2,) or not self.overlap:
            problems.append(f"digits, overlap: {self.source} has one digit an image; leave them out")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _digit_problems(self) -> Iterator[str]:
        shown = f"digits={list(self.digits)}"
        if sorted(set(self.digits)) != list(self.digits):
            yield f"{shown}: each number once, in rising order"
        if max(self.digits) == 0:
            yield f"{shown}: every image would be blank; add a number above 0"
        apart = _APART.get(self.side, max(self.digits))
        if not self.overlap and max(self.digits) > apart:
            yield f"{shown}: overlap=false finds places for {apart} digits at most on {self.side} x {self.side}"

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Sets that were made before there was a choice keep their digests.
        tree: dict[str, Any] = serialise(self)
        for key in ("rule", "path", "paper", "threshold", "digits", "overlap"):
            if getattr(self, key) == type(self).model_fields[key].default:
                tree.pop(key, None)
        return tree
