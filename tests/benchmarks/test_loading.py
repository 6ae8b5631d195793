"""The loading benchmark: the stock loader reads the same images, and every figure is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import loading
from seqgen.data.images import load_split
from tests.sets import write_digits, write_strokes


@pytest.mark.parametrize("write", [write_digits, write_strokes])
def test_the_stock_loader_gives_every_image_once(tmp_path: Path, write):
    write(tmp_path)
    images = load_split(tmp_path, "train")
    drawn = torch.cat(list(loading.stock([str(tmp_path / "train-000000.tar")], batch=8)))
    expected = images.images.unsqueeze(1).float() / (images.levels - 1)
    assert drawn.shape == expected.shape
    assert not drawn.equal(expected), "shuffled"
    assert torch.equal(*(x.flatten(1).sort(0).values for x in (drawn, expected)))


def test_every_case_is_measured(tmp_path: Path):
    write_digits(tmp_path, {"train": 128, "valid": 16, "test": 16})
    model = loading.fastest_model(rounds=1)
    row = loading.measure(tmp_path, model, rounds=1)
    assert len(row["images_per_second"]) == 2 * 2 + 2
    assert all(rate > 0 for rate in row["images_per_second"].values())
    shown = loading.tables([row])
    assert shown.count("mnist-5k 28 x 28, dynamic | x and x' |") == 1
    assert f"{row['images_per_second']['webdataset']:,.0f}" in shown
