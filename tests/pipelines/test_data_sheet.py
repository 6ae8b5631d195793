"""`seqgen data show`: a sheet of what a recipe trains on, split by split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.artifacts.places import places
from pipelines.data import data
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from seqgen.data.images import ImageSet, load_split
from seqgen.data.manifest import read_manifest
from seqgen.drawing.data_sheet import data_sheet
from seqgen.drawing.pictures import INK, PAPER
from tests.finished_run import tiny_recipe
from tests.sets import write_digits, write_strokes


def has(sheet: Image.Image, part: np.ndarray) -> bool:
    """Whether the sheet shows the pixels `part` [H,W,3] somewhere."""
    pixels = np.asarray(sheet).astype(np.int64)
    height, width = part.shape[:2]
    found = np.ones((pixels.shape[0] - height + 1, pixels.shape[1] - width + 1), bool)
    for row in range(0, height, 3):
        for column in range(0, width, 3):
            there = pixels[row : row + found.shape[0], column : column + found.shape[1]]
            found &= (there == part[row, column]).all(2)
    return bool(found.any())


def enlarged(bits: np.ndarray, scale: int) -> np.ndarray:
    """Bits [H,W] in ink and paper, [scale H, scale W, 3]."""
    return np.where(bits[..., None] > 0, INK, PAPER).repeat(scale, 0).repeat(scale, 1)


def test_every_split_is_on_the_sheet_as_a_model_sees_it(tmp_path: Path):
    write_strokes(tmp_path / "set")
    manifest = read_manifest(tmp_path / "set")
    splits = {split: load_split(tmp_path / "set", split) for split in manifest.splits}
    sheet = data_sheet(manifest, splits, 0)
    assert sheet.tobytes() == data_sheet(manifest, splits, 1).tobytes()  # nothing is drawn of bits
    for images in splits.values():
        assert has(sheet, enlarged(images.images[0].numpy(), 2))
    assert not has(sheet, enlarged(np.eye(28), 2))


def test_grey_levels_are_drawn_as_they_are_trained_on(tmp_path: Path):
    write_digits(tmp_path / "set")
    manifest = read_manifest(tmp_path / "set")
    splits = {split: load_split(tmp_path / "set", split) for split in manifest.splits}
    first, other = (data_sheet(manifest, splits, seed) for seed in (0, 1))
    assert first.size == other.size
    assert first.tobytes() != other.tobytes()


def test_a_set_without_concepts_fills_its_rows_from_all_over(tmp_path: Path):
    write_strokes(tmp_path / "set")
    manifest = read_manifest(tmp_path / "set")
    known = load_split(tmp_path / "set", "train")
    nothing = torch.full_like(known.concepts, -1)
    unknown = ImageSet(known.images, 2, nothing, nothing, ())
    assert has(data_sheet(manifest, {"train": unknown}, 0), enlarged(known.images[-1].numpy(), 2))


def test_the_verb_writes_the_sheet_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path / "artifacts"))
    path = str(tiny_recipe(tmp_path))
    with pytest.raises(BadInput, match="no manifest"):
        data("show", path)
    where = places(load_recipe(path))
    write_digits(where.shards)
    data("show", path)
    assert "train 64, valid 20, test 20" in capsys.readouterr().out
    with Image.open(where.data_sheet) as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 28 * 10
