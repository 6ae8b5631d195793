"""The shards that a recipe trains on, checked before any training is started."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipelines.artifacts.places import places
from pipelines.artifacts.published import check_published, opened, published_root
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import FILE_NAME, Manifest, Place, read_manifest
from seqgen.settings import Recipe


def shards_of(recipe: Recipe, cached: bool = True) -> Place:
    """Where the shards of `recipe` are read from: SEQGEN_SHARDS/<recipe>, else where `shard` makes them.

    `cached`: this machine's cache stands for what was fetched before.
    """
    root = published_root()
    return opened(f"{root}/{recipe.name}", cached) if root else places(recipe).shards


def checked_manifest(recipe: Recipe) -> Manifest:
    """The manifest of the recipe's shards, checked against the recipe and against the files.

    Of published shards only that they are there: each is confirmed when it is fetched. Raises BadInput (absent, made
    with other settings, other than those made here, nothing to be measured on, or fewer images than a batch),
    OperationalError (damaged: the shard and the member).
    """
    from data_prep.damage import damage

    here, place = places(recipe).shards, shards_of(recipe)
    remedy = f"run `seqgen shard --recipe {recipe.name}`"
    manifest = read_manifest(place)
    if place != here:
        remedy = f"run `seqgen publish --recipe {recipe.name}`"
        if (here / FILE_NAME).is_file() and read_manifest(here).digest != manifest.digest:
            raise BadInput(f"{place}: other shards than those made in {here}; {remedy}")
    size = manifest.height if recipe.data.size == "auto" else recipe.data.size
    if manifest.data != recipe.data or (manifest.height, manifest.width) != (size, size):
        raise BadInput(f"{place}: shards of other data settings; {remedy}")
    check_fit(recipe, manifest)
    for split in ("train", "valid"):
        if split not in manifest.splits:
            raise BadInput(f"{place}: no split {split}; {remedy}")
        shards = manifest.splits[split].shards
        if not isinstance(place, Path):
            check_published(place, shards)
        elif problems := damage(place, shards):
            alone = f"seqgen verify --recipe {recipe.name} --on-bad-shard skip"
            instead = f", or go on without: `{alone}`" if split == "train" else ""
            raise OperationalError(f"{'; '.join(problems.values())}; {remedy}{instead}")
    if not manifest.splits["valid"].images:
        raise BadInput(f"{place}: no images in valid, on which a training is measured; {remedy}")
    if recipe.data.source == "folder" and recipe.train.pairs == "alphabet":
        _check_alphabets(recipe, manifest, place)
    images = manifest.splits["train"].images
    if recipe.train.batch > images:
        raise BadInput(f"train.batch={recipe.train.batch} exceeds the {images} training images: choose less")
    return manifest


def check_fit(recipe: Recipe, manifest: Manifest) -> None:
    """Raises BadInput if the model is not for images of the size that `data.size=auto` has found."""
    if recipe.data.size == "auto" and (problems := list(recipe.model.problems(manifest.height))):
        found = ", ".join(f"model.{problem}" for problem in problems)
        raise BadInput(f"{found} (detected); choose data.size, or another model")


def _check_alphabets(recipe: Recipe, manifest: Manifest, place: Place) -> None:
    """Raises BadInput if the set's concepts are in no alphabets, or one has no other beside it to be paired with."""
    for split in ("train", "valid", recipe.evaluate.split):
        alphabets = Counter(concept.rpartition("/")[0] for concept in manifest.splits[split].concepts)
        if "" in alphabets:
            raise BadInput(
                f"train.pairs=alphabet: {place} has no alphabets; use character, or put the drawings of "
                f"{recipe.data.path} below <alphabet>/<concept>/ and shard it again"
            )
        alone = sorted(alphabet for alphabet, concepts in alphabets.items() if concepts == 1)
        if alone and (split == "train" or len(alone) == len(alphabets)):
            raise BadInput(
                f"train.pairs=alphabet: one concept in {split} of {', '.join(alone)}, and a pair needs two; add some, "
                "choose another data.seed, or use character"
            )


def skip_bad_shards(directory: Path) -> None:
    """Leave the damaged training shards out of the set in `directory`, and say which. Raises as `leave_out_damaged`."""
    from data_prep.damage import counted, leave_out_damaged

    manifest, problems = leave_out_damaged(directory)
    for problem in problems.values():
        print(f"left out: {problem}", flush=True)
    if problems:
        images = sum(shard.images for shard in manifest.left_out if shard.name in problems)
        print(f"{counted(problems)} left out, {images:,} images: {manifest.title}", flush=True)
