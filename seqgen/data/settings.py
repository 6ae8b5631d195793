"""Settings of a data set: where it comes from, how it is cut, and how it becomes binary or stays grey."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from seqgen.core.strict import Strict

Source = Literal[
    "mnist", "binarized-mnist", "mnist-5k", "multi-mnist", "omniglot", "omniglot-strokes", "folder"
]
SplitRule = Literal["standard", "weak", "30-20", "40-10", "45-5"]
ShrinkRule = Literal["strokes", "nearest"]
Binarise = Literal["static", "dynamic", "threshold", "grey"]
Pairs = Literal["character", "alphabet"]  # what a context shares with its image

_SIZES = {
    "mnist": (28,),
    "binarized-mnist": (28,),
    "mnist-5k": (28,),
    "multi-mnist": (64,),
    "omniglot": (28, 52),
    "omniglot-strokes": (28, 52),
    "folder": range(4, 257),
}


class DataConfig(Strict):
    """One data set as it is sharded and read.

    `binarise` says how pixels become 0 or 1: `static` (the files are binary already), `dynamic` (grey levels
    are Bernoulli probabilities, drawn anew each time from the run's seed), `threshold` (grey > 0.5); or that they stay
    `grey`: level v is anywhere in its bin, x = (v + u) / 256, u uniform, drawn anew as for `dynamic`. `rule` says
    how Omniglot's drawings are made smaller: `strokes` breaks none, `nearest` at 28 is what published few-shot tables
    are on. `folder` is the folder of the source of that name.
    """

    source: Source
    size: int
    split: SplitRule = "standard"
    rule: ShrinkRule = "strokes"
    binarise: Binarise
    seed: int = Field(
        default=0, ge=0, description="seed of what is generated (multi-mnist) or split at random (folder)"
    )
    folder: str | None = Field(
        default=None, min_length=1, description="where the images of source=folder lie"
    )

    @property
    def is_omniglot(self) -> bool:
        """Whether the set has alphabets and characters (the real one or the stand-in)."""
        return self.source in ("omniglot", "omniglot-strokes")

    @property
    def is_grey(self) -> bool:
        """Whether the shards hold grey levels (256) and not bits."""
        return self.source in ("mnist", "mnist-5k", "folder")

    @property
    def pixels(self) -> Literal["binary", "grey"]:
        """What the pixels are that a model sees."""
        return "grey" if self.binarise == "grey" else "binary"

    @property
    def held_out_metric(self) -> str:
        """The name of what trainings are compared by: the held-out free energy, nats per image, lower is better."""
        return f"valid/{self.binarise}/free_energy"

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        problems = []
        if self.size not in _SIZES[self.source]:
            sizes = _SIZES[self.source]
            known = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 2 else " or ".join(map(str, sizes))
            problems.append(f"size={self.size}: {self.source} has {known}")
        if self.is_omniglot and self.split == "standard":
            problems.append(f"split=standard: {self.source} has weak, 30-20, 40-10 or 45-5")
        if not self.is_omniglot and self.split != "standard":
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
        if self.seed and self.source not in ("multi-mnist", "folder"):
            problems.append(f"seed={self.seed}: nothing of {self.source} is made from it; leave it out")
        if self.folder is None and self.source == "folder":
            problems.append("folder: source=folder needs the folder that the images lie in")
        if self.folder is not None and self.source != "folder":
            problems.append(f"folder={self.folder}: only for source=folder; leave it out")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Sets that were made before there was a choice keep their digests.
        tree: dict[str, Any] = serialise(self)
        for key, default in (("rule", "strokes"), ("folder", None)):
            if key in tree and tree[key] == default:
                del tree[key]
        return tree
