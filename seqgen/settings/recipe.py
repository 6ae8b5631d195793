"""A recipe: every setting of one complete run, with the checks across its sections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from seqgen.core.files import canonical_digest
from seqgen.core.strict import Positive, Seed, Strict
from seqgen.data.settings import DataConfig, Pairs
from seqgen.settings.model import ModelConfig
from seqgen.settings.section import OpenSection

_SHAPES = 7  # torch.compile gives up after 8; one is for the last batch of an evaluation
# Of a training, what does not decide what is learned.
_WAYS = {
    "workers",
    "fewest_workers",
    "accumulate",
    "recompute",
    "evaluate_every",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "gallery_every",
    "max_skipped",
    "max_failures",
}


_LATER = {"shuffle_shards": None, "initial": "random", "patience": 0}


class TrainConfig(OpenSection):
    """One training run; its objective owns settings here. Rates are for Adam on nats per image."""

    slots: ClassVar[tuple[str, ...]] = ("objective",)

    epochs: Positive
    batch: Positive = Field(description="images per step over all workers")
    workers: Positive = Field(
        default=2, description="data-parallel processes; does not change the mathematics"
    )
    fewest_workers: Positive | None = Field(
        default=None, description="go on with as few where more cannot be had; absent: wait for all"
    )
    accumulate: Positive = Field(
        default=1,
        description="parts in which a worker computes its gradient, one after another: less memory, the same step",
    )
    learning_rate: float = Field(gt=0, le=1)
    warmup_steps: int = Field(default=0, ge=0, description="steps over which the rate rises from 0")
    final_rate: float = Field(default=0.1, gt=0, le=1, description="rate at the end, as a share (cosine)")
    initial: Literal["random", "champion"] = Field(
        default="random",
        description="weights it starts from: random, or the registry's champion's if it has the model",
    )
    objective: str = Field(
        default="pathwise", description="what is minimised, and how its gradient is estimated"
    )
    pairs: Pairs = Field(
        default="character", description="a context is of the image's character, or another of its alphabet"
    )
    contexts: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(1,),
        min_length=1,
        strict=False,
        description="how many contexts a step's images are shown with: one of these at random; 0 is none",
    )
    new_classes: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the epochs, from the first, in which half of the images are mapped with their contexts: "
        "flipped, transposed, turned, stretched",
    )
    shuffle_shards: Positive | None = Field(
        default=None,
        description="shards whose images are shuffled together, for sets that are streamed (contexts are then of an "
        "image's own shard); all of the set if absent",
    )
    clip: float = Field(default=10.0, gt=0, description="largest global gradient norm")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the averaged weights; 0 = none")
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = Field(default=False, description="torch.compile of the step; for GPUs")
    recompute: int = Field(
        default=0,
        ge=0,
        description="keep the state of every so many steps only and compute the others again in the backward pass; "
        "0 = keep all",
    )
    evaluate_every: Positive = Field(default=1, description="epochs between held-out bounds")
    patience: int = Field(
        default=0,
        ge=0,
        description="end after so many held-out bounds in a row that are no better; 0 = never",
    )
    checkpoint_every: Positive = Field(default=1, description="epochs between checkpoints")
    checkpoint_minutes: float = Field(
        default=10.0, gt=0, description="and minutes, within a long epoch; at most so much work is lost"
    )
    keep_checkpoints: Positive = Field(default=2, description="the latest ones kept, besides the best")
    gallery_every: int = Field(
        default=0, ge=0, description="epochs between drawings by which one sees it learn; 0 = none"
    )
    max_skipped: int = Field(
        default=5, ge=0, description="steps in a row whose gradient may be not finite; none is taken"
    )
    max_failures: int = Field(default=3, ge=0, description="lost workers the run survives")
    seed: Seed = 0

    def learned(self) -> dict[str, Any]:
        """The settings that decide what is learned, not how many do it, in what memory, how often it is looked at."""
        return self.model_dump(mode="json", exclude=self._ways())

    def kept(self) -> dict[str, Any]:
        """Of `learned`, what a run keeps for life: all but when it ends, which may be asked to be later."""
        return self.model_dump(mode="json", exclude={*self._ways(), "epochs", "patience"})

    def _ways(self) -> set[str]:
        # Settings from before there were these choices keep their digests.
        return _WAYS | {key for key, value in _LATER.items() if getattr(self, key) == value}


class SearchConfig(Strict):
    """A Ray Tune search with ASHA; `space` maps a dotted setting to its list of values or a range."""

    trials: Positive
    epochs: Positive = Field(description="epochs of the longest trial")
    workers: Positive = Field(default=1, description="workers per trial; 1 trains in the trial's own process")
    grace_epochs: Positive = 1
    reduction: int = Field(default=2, ge=2, description="ASHA keeps one in so many at each rung")
    train_images: Positive | None = Field(default=None, description="images a trial trains on; all if absent")
    minutes: float = Field(default=60, gt=0, description="budget of the whole search")
    space: dict[str, list[Any] | dict[Literal["low", "high", "log"], Any]]
    seed: Seed = 0


class EvaluateConfig(Strict):
    """How a trained model is measured. Bounds in nats per image."""

    split: Literal["valid", "test"] = "test"
    images: Positive | None = Field(
        default=None, description="images of the split for the bound; all if absent"
    )
    importance_samples: Positive = Field(default=50, description="k of the importance-weighted bound")
    importance_images: Positive = Field(default=500, description="images for that bound")
    seed: Seed = 0


class RegisterConfig(Strict):
    """The registry entry, and when a candidate becomes champion."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    split: Literal["valid", "test"] = Field(
        default="valid", description="what the competition is decided on; evaluate.split is what is reported"
    )
    min_gain: float = Field(default=0.0, ge=0, description="nats by which the held-out bound must be lower")
    z: float = Field(
        default=2.0,
        ge=0,
        description="standard errors of the paired difference by which it must be lower; of few clusters more",
    )
    other_images: Literal["refuse", "measure"] = Field(
        default="refuse",
        description="against a champion evaluated on other images: not promoted, or both measured on these",
    )


class Recipe(Strict):
    """One complete run: what the stages of `dvc repro` do, from raw files to the registry."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    search: SearchConfig | None = None
    evaluate: EvaluateConfig
    register_: RegisterConfig = Field(alias="register")

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        problems = list(self._problems())
        if problems:
            raise PydanticCustomError("cross_check", "{problems}", {"problems": "; ".join(problems)})
        return self

    def _problems(self) -> Iterator[str]:
        if self.train.batch % self.train.workers:
            yield (
                f"train.batch={self.train.batch} is not divisible by train.workers={self.train.workers}: "
                "choose a multiple"
            )
        fewest = self.train.fewest_workers or self.train.workers
        if fewest > self.train.workers:
            yield f"train.fewest_workers={fewest} exceeds train.workers={self.train.workers}: leave it out"
        for workers in range(fewest, self.train.workers):
            if self.train.batch % workers:
                yield (
                    f"train.fewest_workers={fewest}: train.batch={self.train.batch} is not divisible by {workers}, "
                    "which may be what there is; choose another of the two"
                )
                break
        for workers in range(fewest, self.train.workers + 1):
            each = self.train.batch // workers
            if each % self.train.accumulate:
                yield (
                    f"train.accumulate={self.train.accumulate}: of train.batch={self.train.batch} each of {workers} "
                    f"workers has {each} images, which are not divisible by it; choose a divisor"
                )
                break
        if self.model.conditional and (self.data.source == "binarized-mnist" or self.data.is_multi_mnist):
            yield f"model.conditional=true: {self.data.source} has no classes to draw pairs from; use another source"
        if self.model.conditional and self.data.source == "folder" and not self.data.has_characters:
            yield (
                f"model.conditional=true: data.split={self.data.split} takes a folder's images one by one; "
                "use data.split=concepts, if its subfolders are characters"
            )
        if self.train.pairs == "alphabet" and not self.data.has_characters:
            yield f"train.pairs=alphabet: {self.data.source} has no alphabets; use character"
        if not self.model.conditional:
            for key, default in (("pairs", "character"), ("contexts", (1,)), ("new_classes", 0.0)):
                if (value := getattr(self.train, key)) != default:
                    yield f"train.{key}={value}: only for model.conditional=true; leave it out"
        stuck = [kind for kind in self.model.kinds() if kind.settings.discrete]
        if self.train.objective == "pathwise" and stuck:
            yield (
                f"train.objective=pathwise: no gradient flows through {stuck[0].slot}={stuck[0].name}; "
                "use score-function or iwae"
            )
        if self.train.objective == "score-function" and not stuck:
            yield (
                "train.objective=score-function: a gradient flows through all of z, and there is nothing for its "
                "baseline to do; use pathwise or iwae"
            )
        if self.train.compile and self.model.step == "layers" and self.model.steps > _SHAPES:
            yield (
                f"train.compile=true: at most {_SHAPES} layers are compiled, and model.steps={self.model.steps}; "
                "use compile=false"
            )
        for kind in self.model.kinds():
            if (seen := getattr(kind.settings, "pixels", self.data.pixels)) == self.data.pixels:
                continue
            yield (
                f"model.{kind.slot}={kind.name} is of {seen} pixels, and "
                f"data.binarise={self.data.binarise} gives {self.data.pixels} ones; choose another of the two"
            )
        if self.train.new_classes and self.data.pixels == "grey":
            yield f"train.new_classes={self.train.new_classes}: maps drawings, not grey images; leave it out"
        shapes = len({max(1, count) for count in self.train.contexts})
        if self.train.compile and getattr(self.model, "context", "mean") != "mean" and shapes > _SHAPES:
            yield (
                f"train.compile=true: a step is compiled for each of at most {_SHAPES} numbers of contexts, and "
                f"train.contexts has {shapes}; leave some out, or compile=false"
            )
        size = None if self.data.size == "auto" else self.data.size
        yield from (f"model.{problem}" for problem in self.model.problems(size))
        if self.search is not None:
            if self.train.batch % self.search.workers:
                yield f"train.batch={self.train.batch} is not divisible by search.workers={self.search.workers}"
            if self.search.grace_epochs > self.search.epochs:
                yield f"search.grace_epochs={self.search.grace_epochs} exceeds search.epochs={self.search.epochs}"

    def given(self) -> dict[str, Any]:
        """The recipe as a tree, of model and training only what was given: other kinds may be chosen over it."""
        tree = self.model_dump(mode="json", by_alias=True)
        return {**tree, "model": self.model.given(), "train": self.train.given()}

    def digest(self) -> str:
        """The sha256 of the settings that decide what is learned (not workers, cadence, search or registry)."""
        return canonical_digest(self._decisive(self.train.learned()))

    def run_digest(self) -> str:
        """As `digest`, without `train.epochs`: the same for a run and for its going on to more epochs."""
        return canonical_digest(self.kept())

    def kept(self) -> dict[str, Any]:
        """The settings that a run keeps for life."""
        return self._decisive(self.train.kept())

    def _decisive(self, train: dict[str, Any]) -> dict[str, Any]:
        return {"data": self.data.model_dump(), "model": self.model.model_dump(), "train": train}
