"""A model on disk: safetensors and JSON, nothing that runs code when it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

import seqgen
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import file_sha256, write_bytes, write_json
from seqgen.models.build import build
from seqgen.models.model import SequentialModel
from seqgen.settings import ModelConfig
from seqgen.settings.kinds import chosen, load_plugin, owners, within

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"
_FORMAT = "seqgen-model-2"
_BEFORE = "seqgen-model-1"  # its weights had other names (`_renamed`)


def save_model(model: SequentialModel, directory: Path) -> None:
    """Write weights.safetensors, then model.json with its sha256: the mark that the model is complete."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(directory / WEIGHTS, save_tensors(weights))
    description = {
        "format": _FORMAT,
        "version": seqgen.__version__,
        "config": model.config.model_dump(mode="json"),
        "plugins": model.config.used_plugins(),
        "height": model.sizes.height,
        "width": model.sizes.width,
        "mean": model.sizes.mean,
        "sha256": file_sha256(directory / WEIGHTS),
    }
    write_json(directory / DESCRIPTION, description)


def load_model(directory: Path) -> SequentialModel:
    """Read a saved model, in evaluation mode on the CPU.

    Raises BadInput if there is none, it is of another format or needs a plugin that is not here, OperationalError if
    its weights were altered.
    """
    path = directory / DESCRIPTION
    try:
        description = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: no seqgen model here ({error})") from error
    if not isinstance(description, dict) or description.get("format") not in (_FORMAT, _BEFORE):
        found = description.get("format") if isinstance(description, dict) else type(description).__name__
        made_by = description.get("version", "?") if isinstance(description, dict) else "?"
        raise BadInput(
            f"{path}: format {found!r} (made by seqgen {made_by}); this is seqgen {seqgen.__version__}, "
            f"which reads {_FORMAT}"
        )
    for module, version in description.get("plugins", {}).items():
        try:
            load_plugin(module)
        except BadInput as error:
            made = f"{module} {version}" if version else module
            raise BadInput(f"{path}: made with kinds of {made}, which {error}") from None
    try:
        settings = dict(description["config"])
        if description["format"] == _BEFORE:
            settings = _owned(settings)
        config = ModelConfig.model_validate_json(json.dumps(settings))
        model = build(config, description["height"], description["width"], description["mean"])
        digest = description["sha256"]
    except (KeyError, TypeError, ValidationError) as error:
        raise BadInput(f"{path}: not a model of {_FORMAT}: {error}") from error
    weights = directory / WEIGHTS
    if not weights.is_file() or file_sha256(weights) != digest:
        raise OperationalError(f"{weights}: missing or altered (sha256 is not the one in {DESCRIPTION})")
    try:
        tensors = load_tensors(weights.read_bytes())
        model.load_state_dict(_renamed(tensors) if description["format"] == _BEFORE else tensors)
    except (RuntimeError, SafetensorError) as error:
        raise BadInput(f"{weights}: does not fit the model that {DESCRIPTION} describes: {error}") from error
    return model.eval()


def _owned(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of the first format, which had a value for those of kinds that were not chosen too."""
    kinds = chosen(ModelConfig.default_kinds(), settings)
    return {
        key: value
        for key, value in settings.items()
        if not (having := owners(key, within(ModelConfig.slots))) or any(kind in kinds for kind in having)
    }


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names they have now, from those of the first format."""
    moved = {"h0": "transition.h0", "cell0": "transition.cell0"}
    return {
        f"step.{moved.get(name, name.replace('transition.linear', 'transition.cell.linear'))}": tensor
        for name, tensor in weights.items()
    }
