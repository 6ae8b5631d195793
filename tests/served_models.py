"""Tiny models with random weights behind the HTTP application, for tests."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from seqgen.models import build, save_model
from seqgen.serving.http.served import Served, load_source
from seqgen.settings import ModelConfig

SHAPE = (8, 6)
SMALL = {"steps": 3, "latents": 3, "hidden": 8, "read_size": 4, "write_size": 4, "posterior_hidden": 8}


def saved(directory: Path, shape: tuple[int, int] = SHAPE, **settings: Any) -> Path:
    """The directory of a model whose latents and windows matter: its weights are larger than at the start."""
    torch.manual_seed(0)
    model = build(ModelConfig(**{**SMALL, **settings}), *shape, 0.3).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.3 * torch.randn_like(weights))
    save_model(model, directory)
    return directory


def served(directory: Path, **settings: Any) -> Served:
    return load_source(str(saved(directory, **settings)))


def binary_images(count: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return (np.random.default_rng(0).random((count, *shape)) < 0.3).astype(np.uint8)


def as_png(image: np.ndarray, mode: str = "L") -> dict[str, str]:
    """Ink as dark on light, in base64, as a request has it."""
    stream = io.BytesIO()
    Image.fromarray(np.rint(255 * (1 - image)).astype(np.uint8)).convert(mode).save(stream, "PNG")
    return {"png": base64.b64encode(stream.getvalue()).decode()}


def from_png(answer: dict[str, str]) -> np.ndarray:
    """The ink of an image of an answer."""
    with Image.open(io.BytesIO(base64.b64decode(answer["png"]))) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        return 1 - np.asarray(picture) / 255
