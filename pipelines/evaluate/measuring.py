"""What the verbs that measure bounds share: the splits with contexts and common names, and figures as entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.held_out import held_out_of, images_of
from pipelines.artifacts.one_shot import Entry, entry
from pipelines.artifacts.trained_model import TrainedModel
from seqgen.core.errors import BadInput

if TYPE_CHECKING:
    from seqgen.evaluation.bounds import HeldOut
    from seqgen.evaluation.errors import Clustered
    from seqgen.models import SequentialModel

SPLITS = ("train", "valid", "test")
FOREIGN = (
    "foreign_context_cost: F given another concept's image less F, image by image. A wrong context misleads a model; "
    "this is not what the right one is worth against none, and not to be set beside a gain such as GMN's."
)


def load_for_measuring(trained: TrainedModel) -> SequentialModel:
    """The trained model where it is measured: on the GPU, if there is one. Raises BadInput if the shards are others."""
    import torch

    from seqgen.native import keep_freed_memory

    trained.manifest()
    keep_freed_memory()
    return trained.load().to("cuda" if torch.cuda.is_available() else "cpu")


def whole_splits(trained: TrainedModel) -> dict[str, HeldOut]:
    """SPLITS, whole, each image with one context; characters and alphabets have the same number in every split."""
    found: dict[str, HeldOut] = {}
    numbers: dict[str, int] = {}
    for split in SPLITS:
        images = images_of(trained, split)
        held_out = held_out_of(trained, images, 1)
        if held_out.groups is not None:
            names, alphabets = images.concept_names, held_out.alphabets
            if alphabets is not None:  # a concept is called alphabet/character (data_prep.omniglot)
                alphabets = _numbered(held_out.groups, [name.rpartition("/")[0] for name in names], numbers)
            groups = _numbered(held_out.groups, names, numbers)
            held_out = replace(held_out, groups=groups, alphabets=alphabets)
        found[split] = held_out
    return found


def need_bits(trained: TrainedModel, what: str) -> None:
    """Raises BadInput for a model of grey images; `what` is of binary ones."""
    if trained.recipe.data.pixels != "binary":
        raise BadInput(
            f"data.binarise={trained.recipe.data.binarise} in {trained.recipe.name}: {what} is of binary images; "
            "name another recipe"
        )


def entry_of(found: Clustered, images: int, *, unit: str = "nats", k: int | None = None) -> Entry:
    """A figure with its errors as an entry of a table."""
    return entry(found.value, found.se, images, unit=unit, se_by_alphabet=found.se_by_alphabet, k=k)


def about_errors(held_out: HeldOut) -> dict[str, Any]:
    """What the standard errors of a table are of, and how to make intervals of those by alphabet."""
    from seqgen.evaluation.errors import cluster_count, t_quantile

    characters, alphabets = cluster_count(held_out.groups), cluster_count(held_out.alphabets)
    if not characters:
        return {"errors": "se: over images, which are independent"}
    if not alphabets:
        return {"errors": "se: clustered by character, right for other characters", "characters": characters}
    about: dict[str, Any] = {
        "errors": "se: clustered by character, right for other characters of the same alphabets; se_by_alphabet: "
        "clustered by alphabet, right for other alphabets",
        "characters": characters,
        "alphabets": alphabets,
    }
    if alphabets > 1:
        about["interval_95"] = f"value ± {t_quantile(alphabets):.2f} se_by_alphabet (Student's t)"
    return about


def _numbered(concepts: Any, names: Sequence[str], numbers: dict[str, int]) -> Any:
    """The numbers of the images' names, int64 [N]; those of new names are added to `numbers`."""
    import torch

    known = torch.tensor([numbers.setdefault(name, len(numbers)) for name in names], dtype=torch.int64)
    return known[concepts]
