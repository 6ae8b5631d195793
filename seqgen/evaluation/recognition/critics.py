"""The critics on disk: safetensors and JSON, with what they were trained on and how well they do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import file_sha256, write_bytes, write_json
from seqgen.evaluation.recognition.networks import Embedding, Recogniser

DESCRIPTION = "critics.json"
_FORMAT = "seqgen-critics-1"
_PARTS = ("recogniser", "embedding")


@dataclass(frozen=True)
class Critics:
    """`about` has at least `data`, the digest of the manifest that they were trained on, and `seed`."""

    recogniser: Recogniser
    embedding: Embedding
    about: Mapping[str, Any]


def save_critics(critics: Critics, directory: Path) -> None:
    """Write the weights of both into `directory`, then critics.json with their sha256: the mark of completeness."""
    for part in _PARTS:
        weights: dict[str, Tensor] = getattr(critics, part).state_dict()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        write_bytes(directory / _file(part), save_tensors(tensors))
    digests = {part: file_sha256(directory / _file(part)) for part in _PARTS}
    description = {"format": _FORMAT, "sha256": digests, **critics.about}
    write_json(directory / DESCRIPTION, description)


def read_description(directory: Path) -> dict[str, Any] | None:
    """critics.json of this format, None if there is none."""
    try:
        description = json.loads((directory / DESCRIPTION).read_text())
    except (OSError, ValueError):
        return None
    fits = isinstance(description, dict) and description.get("format") == _FORMAT
    return description if fits else None


def load_critics(directory: Path) -> Critics:
    """Read both critics, in evaluation mode on the CPU.

    Raises BadInput if there are none of this format, OperationalError if their weights were altered.
    """
    description = read_description(directory)
    if description is None:
        raise BadInput(f"{directory / DESCRIPTION}: no critics of format {_FORMAT} here")
    networks: dict[str, nn.Module] = {"recogniser": Recogniser(), "embedding": Embedding()}
    for part, network in networks.items():
        path = directory / _file(part)
        if not path.is_file() or file_sha256(path) != description["sha256"][part]:
            raise OperationalError(f"{path}: missing or altered (sha256 is not the one in {DESCRIPTION})")
        try:
            network.load_state_dict(load_tensors(path.read_bytes()))
        except (RuntimeError, SafetensorError) as error:
            raise OperationalError(f"{path}: not the weights of this critic: {error}") from error
        network.eval()
    return Critics(**networks, about=description)  # type: ignore[arg-type]


def _file(part: str) -> str:
    return f"{part}.safetensors"
