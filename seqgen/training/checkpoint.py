"""A checkpoint: all that a run needs to go on with the same bits. Nothing in it runs code when it is loaded.

    model.safetensors      the weights
    average.safetensors    their average
    objective.safetensors  what the objective learned and keeps
    optimiser.pt           Adam's moments
    epoch.safetensors      within an epoch: what it has summed up so far
    index.json             position, best bound, settings, sha256 of every file

Order, binarisation, partners and noise follow from the position, so there is no other random state to keep.
The index is written last: a directory without one is not a checkpoint.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import seqgen
from seqgen.core.errors import BadInput, OperationalError, changes
from seqgen.core.files import file_sha256, write_bytes, write_json
from seqgen.objectives import Objective, State

INDEX = "index.json"
_MODEL, _AVERAGE, _OBJECTIVE = "model.safetensors", "average.safetensors", "objective.safetensors"
_OPTIMISER, _EPOCH = "optimiser.pt", "epoch.safetensors"
_FORMAT = "seqgen-checkpoint-3"
_READ = (_FORMAT, "seqgen-checkpoint-2")  # 2: always after an epoch, and bound to the number of epochs
_EPOCHS = "train.epochs"
_STATE = "state/"  # before the names of an objective's state


@dataclass(frozen=True)
class Position:
    """Where a run stands: completed epochs and steps done, those of the present epoch among them.

    An epoch is complete once it was measured, too.
    """

    epoch: int
    step: int


@dataclass
class Trainee:
    """What a run changes: the weights, their average, the optimiser's state, the objective and its state.

    `sums` is what the present epoch has summed up so far; empty between two epochs. `best` is the lowest held-out
    bound so far (nats), `not_better` how many have been measured since.
    """

    model: nn.Module
    average: AveragedModel
    optimiser: torch.optim.Optimizer
    objective: Objective
    state: State
    sums: dict[str, Tensor] = field(default_factory=dict)
    best: float = math.inf
    not_better: int = 0


def save_checkpoint(
    directory: Path, trainee: Trainee, position: Position, settings: Mapping[str, Any]
) -> None:
    """Write a checkpoint into `directory`; files that already lie there become part of it."""
    write_bytes(directory / _MODEL, _bytes(trainee.model.state_dict()))
    write_bytes(directory / _AVERAGE, _bytes(trainee.average.module.state_dict()))
    state_of_objective = {f"{_STATE}{name}": value for name, value in trainee.state.items()}
    write_bytes(directory / _OBJECTIVE, _bytes(trainee.objective.state_dict() | state_of_objective))
    state = io.BytesIO()
    torch.save(trainee.optimiser.state_dict(), state)
    write_bytes(directory / _OPTIMISER, state.getvalue())
    if trainee.sums:
        write_bytes(directory / _EPOCH, _bytes(trainee.sums))
    files = {path.name: file_sha256(path) for path in sorted(directory.iterdir()) if path.name != INDEX}
    index = {
        "format": _FORMAT,
        "version": seqgen.__version__,
        "position": asdict(position),
        "best": trainee.best if math.isfinite(trainee.best) else None,
        "not_better": trainee.not_better,
        "settings": dict(settings),
        "files": files,
    }
    write_json(directory / INDEX, index)


def read_index(directory: Path) -> dict[str, Any]:
    """The index of a complete, undamaged checkpoint.

    Raises OperationalError naming the file that is missing or altered, BadInput for another format.
    """
    path = directory / INDEX
    try:
        index = json.loads(path.read_text())
        made, written_by, files = index["format"], index["version"], dict(index["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OperationalError(
            f"{path}: missing or damaged, so this is no complete checkpoint: {error}"
        ) from None
    if made not in _READ:
        raise BadInput(
            f"{path}: format {made!r}, made by seqgen {written_by}; "
            f"this is seqgen {seqgen.__version__}, which reads {' and '.join(_READ)}"
        )
    for name, digest in files.items():
        file = directory / name
        if not file.is_file() or file_sha256(file) != digest:
            raise OperationalError(f"{file}: missing or damaged (sha256 is not the one in {INDEX})")
    return index


def load_checkpoint(directory: Path, trainee: Trainee, settings: Mapping[str, Any]) -> Position:
    """Fill `trainee` from a checkpoint made with the same `settings`; returns its position.

    Raises OperationalError if a file is damaged, BadInput, naming the settings, if the run was another one.
    """
    index = read_index(directory)
    before = {key: value for key, value in index["settings"].items() if key != _EPOCHS}
    if changed := changes(before, settings):
        raise BadInput(f"{directory}: made with other settings ({'; '.join(changed)}); start a new run")
    _fill(trainee.model, directory / _MODEL)
    _fill(trainee.average.module, directory / _AVERAGE)
    trainee.average.n_averaged.fill_(index["position"]["step"])
    _fill_objective(trainee, directory / _OBJECTIVE)
    device = next(trainee.model.parameters()).device
    try:
        state = torch.load(directory / _OPTIMISER, map_location=device, weights_only=True)
        trainee.optimiser.load_state_dict(state)
    except (UnpicklingError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise OperationalError(
            f"{directory / _OPTIMISER}: not Adam's state of this model: {error}"
        ) from error
    trainee.sums = {}
    if _EPOCH in index["files"]:
        trainee.sums = load_tensors((directory / _EPOCH).read_bytes())
    best = index.get("best")  # absent from checkpoints of before there was a train.patience
    trainee.best, trainee.not_better = math.inf if best is None else best, index.get("not_better", 0)
    return Position(**index["position"])


def load_average(directory: Path, model: nn.Module) -> None:
    """Fill `model` with a checkpoint's averaged weights. Raises OperationalError if a file is damaged."""
    read_index(directory)
    _fill(model, directory / _AVERAGE)


def _fill(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_tensors(path.read_bytes()))
    except (SafetensorError, RuntimeError) as error:
        raise OperationalError(f"{path}: not the weights of this model: {error}") from error


def _fill_objective(trainee: Trainee, path: Path) -> None:
    try:
        tensors = load_tensors(path.read_bytes())
        kept = {name for name in tensors if name.startswith(_STATE)}
        trainee.objective.load_state_dict({name: tensors[name] for name in tensors.keys() - kept})
        trainee.state = {
            name: tensors[f"{_STATE}{name}"].to(value.device) for name, value in trainee.state.items()
        }
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise OperationalError(f"{path}: not the state of this objective: {error}") from error


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
