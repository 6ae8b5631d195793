"""Every setting of a run, its range and the checks across settings. A recipe is one complete, frozen run."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from seqgen.core.errors import BadInput
from seqgen.core.files import canonical_digest
from seqgen.core.yaml import parse_yaml
from seqgen.data.settings import DataConfig, Strict

Attention = Literal["spatial-transformer", "gaussian", "full"]
Positive = Annotated[int, Field(ge=1)]


class ModelConfig(Strict):
    """A member of the family as a choice for each slot (docs/model.md). Defaults are the paper's."""

    steps: int = Field(default=80, ge=1, le=1000, description="T, the number of drawing steps")
    latents: Positive = Field(default=4, description="K, the latents of one step z_t")
    hidden: Positive = Field(default=400, description="D, the LSTM's size")
    attention: Attention = Field(
        default="spatial-transformer", description="how x is read and the canvas written"
    )
    read_size: Positive = Field(default=12, description="side of the glimpse; not used by full")
    write_size: Positive = Field(default=12, description="side of the sprite; not used by full")
    canvas: Literal["additive", "cgru"] = "cgru"
    canvas_channels: Positive = 4
    observation: Literal["conv", "identity"] = Field(
        default="conv", description="f_o: 1x1 convolution or c_T itself"
    )
    inference: Literal["shared", "encoder"] = Field(
        default="shared", description="posterior from h_{t-1} (the paper) or from an encoder LSTM (DRAW)"
    )
    posterior_hidden: Positive = Field(
        default=256, description="width of the posterior's MLP; inference=shared only"
    )
    error_image: bool = Field(default=False, description="read x - x_hat_{t-1} beside x (DRAW)")
    conditional: bool = Field(default=False, description="draw given a context image x' (eq. 4)")

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.observation == "identity" and self.canvas_channels != 1:
            raise ValueError(f"observation=identity needs canvas_channels=1, not {self.canvas_channels}")
        if self.inference == "encoder" and self.posterior_hidden != 256:
            raise ValueError(
                f"posterior_hidden={self.posterior_hidden}: inference=encoder has no such network; leave it out"
            )
        return self


class TrainConfig(Strict):
    """One training run. Rates are for Adam on the free energy in nats per image."""

    epochs: Positive
    batch: Positive = Field(description="images per step over all workers")
    workers: Positive = Field(
        default=2, description="data-parallel processes; does not change the mathematics"
    )
    learning_rate: float = Field(gt=0, le=1)
    warmup_steps: int = Field(default=0, ge=0, description="steps over which the rate rises from 0")
    final_rate: float = Field(default=0.1, gt=0, le=1, description="rate at the end, as a share (cosine)")
    clip: float = Field(default=10.0, gt=0, description="largest global gradient norm")
    kl_warmup_steps: int = Field(default=0, ge=0, description="steps over which the KL's weight rises to 1")
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
    checkpoint_every: Positive = Field(default=1, description="epochs between checkpoints")
    max_failures: int = Field(default=3, ge=0, description="lost workers the run survives")
    seed: int = Field(default=0, ge=0)

    def learned(self) -> dict[str, Any]:
        """The settings that decide what is learned, not how many do it, in what memory, how often it is looked at."""
        ways = {"workers", "recompute", "evaluate_every", "checkpoint_every", "max_failures"}
        return self.model_dump(exclude=ways)


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
    seed: int = Field(default=0, ge=0)


class EvaluateConfig(Strict):
    """How a trained model is measured. Bounds in nats per image."""

    split: Literal["valid", "test"] = "test"
    images: Positive | None = Field(
        default=None, description="images of the split for the bound; all if absent"
    )
    importance_samples: Positive = Field(default=50, description="k of the importance-weighted bound")
    importance_images: Positive = Field(default=500, description="images for that bound")
    seed: int = Field(default=0, ge=0)


class RegisterConfig(Strict):
    """The registry entry, and when a candidate becomes champion."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    min_gain: float = Field(default=0.0, ge=0, description="nats by which the held-out bound must be lower")


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
        if self.model.conditional and self.data.source in ("binarized-mnist", "multi-mnist"):
            yield f"model.conditional=true: {self.data.source} has no classes to draw pairs from; use another source"
        if self.model.attention != "full":
            for key in ("read_size", "write_size"):
                if getattr(self.model, key) > self.data.size:
                    yield f"model.{key}={getattr(self.model, key)} exceeds data.size={self.data.size}"
        if self.search is not None:
            if self.train.batch % self.search.workers:
                yield f"train.batch={self.train.batch} is not divisible by search.workers={self.search.workers}"
            if self.search.grace_epochs > self.search.epochs:
                yield f"search.grace_epochs={self.search.grace_epochs} exceeds search.epochs={self.search.epochs}"

    def digest(self) -> str:
        """The sha256 of the settings that decide what is learned (not workers, cadence, search or registry)."""
        parts = {"data": self.data.model_dump(), "model": self.model.model_dump()}
        return canonical_digest({**parts, "train": self.train.learned()})


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split `a.b=value`; the value is YAML. Raises BadInput."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {text}: write it as section.key=value, for example train.epochs=3")
    return key, parse_yaml(value, f"--set {key}")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def with_settings(tree: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `tree` in which each dotted key of `settings` has its value. Raises BadInput."""
    result: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()
    }
    for dotted, value in settings.items():
        node = result
        *path, leaf = dotted.split(".")
        for part in path:
            child = node.get(part)
            if child is not None and not isinstance(child, Mapping):
                raise BadInput(f"{dotted}: {part} is a single value, not a section")
            node[part] = dict(child or {})
            node = node[part]
        node[leaf] = value
    return result


def build_recipe(tree: Any, where: str) -> Recipe:
    """Check a settings tree as a whole and return the frozen recipe.

    Raises BadInput that lists every problem at once, with the nearest known key for an unknown one.
    """
    if not isinstance(tree, Mapping):
        raise BadInput(f"{where}: a recipe is a mapping of sections, not {type(tree).__name__}")
    try:
        # JSON mode: strict about types, yet a list is what JSON and YAML have for a tuple.
        return Recipe.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise BadInput(f"{where}: " + "; ".join(lines)) from None


def _explain(problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1])
        nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}"
        return f"unknown key {location} ({hint})"
    if problem["type"] == "missing":
        return f"{location} is missing"
    if problem["type"] in ("cross_check", "value_error"):
        return f"{location}: {message}" if location else message
    return f"{location}={problem['input']!r}: {message}"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    schema: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        field = next(
            (f for n, f in schema.model_fields.items() if part in (n, f.alias)),
            None,
        )
        kinds = [
            getattr(field, "annotation", None),
            *getattr(getattr(field, "annotation", None), "__args__", ()),
        ]
        schema = next((k for k in kinds if isinstance(k, type) and issubclass(k, Strict)), Recipe)
    return [field.alias or name for name, field in schema.model_fields.items()]
