"""A model on disk: safetensors and JSON, nothing that runs code when it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

import seqgen
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import file_sha256, write_bytes, write_json
from seqgen.models.generator import SequentialGenerator
from seqgen.models.members import build
from seqgen.settings import ModelConfig

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
_FORMAT = "seqgen-model-1"


def save_model(model: SequentialGenerator, directory: Path) -> None:
    """Write weights.safetensors, then model.json with its sha256: the mark that the model is complete."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(directory / WEIGHTS, save_tensors(weights))
    description = {
        "format": _FORMAT,
        "version": seqgen.__version__,
        "config": model.config.model_dump(),
        "height": model.height,
        "width": model.width,
        "mean": model.mean,
        "sha256": file_sha256(directory / WEIGHTS),
    }
    write_json(directory / DESCRIPTION, description)


def load_model(directory: Path) -> SequentialGenerator:
    """Read a saved model, in evaluation mode on the CPU.

    Raises BadInput if there is none or it is of another format, OperationalError if its weights were altered.
    """
    path = directory / DESCRIPTION
    try:
        description = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: no seqgen model here ({error})") from error
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        found = description.get("format") if isinstance(description, dict) else type(description).__name__
        made_by = description.get("version", "?") if isinstance(description, dict) else "?"
        raise BadInput(
            f"{path}: format {found!r} (made by seqgen {made_by}); this is seqgen {seqgen.__version__}, "
            f"which reads {_FORMAT}"
        )
    try:
        config = ModelConfig.model_validate(description["config"])
        model = build(config, description["height"], description["width"], description["mean"])
        digest = description["sha256"]
    except (KeyError, TypeError, ValidationError) as error:
        raise BadInput(f"{path}: not a model of {_FORMAT}: {error}") from error
    weights = directory / WEIGHTS
    if not weights.is_file() or file_sha256(weights) != digest:
        raise OperationalError(f"{weights}: missing or altered (sha256 is not the one in {DESCRIPTION})")
    try:
        model.load_state_dict(load_tensors(weights.read_bytes()))
    except (RuntimeError, SafetensorError) as error:
        raise BadInput(f"{weights}: does not fit the model that {DESCRIPTION} describes: {error}") from error
    return model.eval()
