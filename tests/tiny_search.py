"""A recipe with a search that takes seconds, for the sets of tests/sets.py."""

from __future__ import annotations

from typing import Any

from seqgen.settings import Recipe, build_recipe

TREE: dict[str, Any] = {
    "description": "a tiny search",
    "data": {"source": "mnist-5k", "size": 28, "binarise": "dynamic"},
    "model": {
        "steps": 2, "attention": "gaussian", "canvas": "additive", "latents": 4, "hidden": 16, "read_size": 3,
        "write_size": 3, "canvas_channels": 1, "observation": "identity",
    },
    "search": {
        "trials": 4, "epochs": 3, "train_images": 48,
        "space": {"model.steps": [1, 2], "model.attention": ["gaussian", "full"]},
    },
    "train": {"epochs": 9, "batch": 16, "learning_rate": 0.001},
    "evaluate": {},
    "register": {"name": "tiny"},
}  # fmt: skip


def tiny(space: dict[str, Any] | None = None, **settings: Any) -> Recipe:
    """The tiny recipe with another space and other settings of its search."""
    asked = {**TREE["search"], **({"space": space} if space is not None else {}), **settings}
    return build_recipe({"name": "tiny", **TREE, "search": asked}, "tiny")
