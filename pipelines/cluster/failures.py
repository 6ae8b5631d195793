"""The errors of workers: which of them a restart may mend, and what a person is told of the others."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from seqgen.core.errors import BadInput, OperationalError, SeqgenError, one_line

_ECHOES = ("connection closed by peer", "connection reset", "nccl", "gloo")


class Failure(NamedTuple):
    """How a worker failed: BadInput or an OperationalError, in words; its rank and node, and of how many it is one."""

    rank: int
    size: int
    node: str
    kind: type[SeqgenError]
    text: str


def is_echo(error: BaseException) -> bool:
    """Whether a worker only noticed that another one went away."""
    text = str(error).lower()
    return any(sign in text for sign in _ECHOES)


def may_be_mended(error: BaseException) -> bool:
    """Whether the same step may succeed after a restart: another process, a node, the network or a GPU failed.

    Any other exception comes of the program, its settings or its data, and would come again.
    """
    import torch
    from ray.exceptions import RayError
    from torch.distributed import DistError

    return isinstance(error, RayError | DistError | torch.AcceleratorError) or is_echo(error)


def kind_of(error: BaseException) -> type[SeqgenError]:
    """As what the error of a worker is told."""
    return BadInput if isinstance(error, BadInput) else OperationalError


def in_words(error: BaseException, recipe: Mapping[str, Any]) -> str:
    """The error of a worker that trained `recipe`, a tree, as it is told; one that is not ours with its place."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return _out_of_memory(recipe, error)
    if isinstance(error, SeqgenError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)[::-1]
    place = next((frame for frame in frames if "site-packages" not in frame.filename), frames[0])
    return f"{type(error).__name__}: {one_line(error)} ({Path(place.filename).name}:{place.lineno})"


def told(failures: list[Failure]) -> SeqgenError:
    """The error that ends a training of which these workers failed: the first one's, and whose, unless it is all's."""
    first = failures[0]
    everyone = len(failures) == first.size and len({failure.text for failure in failures}) == 1
    return first.kind(first.text if everyone else f"rank {first.rank} on node {first.node}: {first.text}")


def _out_of_memory(recipe: Mapping[str, Any], error: Exception) -> str:
    """What a training that does not fit into a GPU's memory is told."""
    import torch

    train, gpu = recipe["train"], torch.cuda.is_available()
    peak = f", with a peak of {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if gpu else ""
    return (
        f"a GPU's memory is full at train.batch={train['batch']}, train.workers={train['workers']}, "
        f"model.steps={recipe['model']['steps']}{peak}; choose a smaller batch, more workers, or train.recompute=4, "
        "which keeps the state of every fourth step only, or train.accumulate=4, which computes the gradient in four "
        f"parts ({' '.join(str(error).split())[:120]})"
    )
