"""Masks of missing pixels, by name and from a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from seqgen.core.errors import BadInput
from seqgen.evaluation.masks import label_of, missing_pixels


def drawn(name: str, height: int = 5, width: int = 6) -> list[str]:
    mask = missing_pixels(name, height, width, 0)
    assert (mask.dtype, tuple(mask.shape)) == (torch.bool, (1, height, width))
    return ["".join(".#"[pixel] for pixel in row) for row in mask[0].int().tolist()]


def test_halves_leave_a_middle_row_and_the_centre_is_a_quarter():
    assert drawn("left") == ["###..."] * 5
    assert drawn("right") == ["...###"] * 5
    assert drawn("top") == ["######"] * 2 + ["......"] * 3
    assert drawn("bottom") == ["......"] * 3 + ["######"] * 2
    assert drawn("centre", 4, 8) == ["........", "..####..", "..####..", "........"]


def test_a_random_mask_is_its_seeds():
    first, again = (missing_pixels("random:0.3", 100, 100, 1) for _ in range(2))
    assert first.equal(again)
    assert not first.equal(missing_pixels("random:0.3", 100, 100, 2))
    assert abs(first.float().mean().item() - 0.3) < 4 * (0.3 * 0.7 / 1e4) ** 0.5


def test_white_is_missing_in_a_picture(tmp_path):
    pixels = np.zeros((5, 6), np.uint8)
    pixels[1, 2:4] = 255
    path = tmp_path / "a-hole.png"
    Image.fromarray(pixels).save(path)
    assert drawn(str(path)) == ["......", "..##..", "......", "......", "......"]
    Image.fromarray(pixels).convert("RGB").save(path)
    assert drawn(str(path))[1] == "..##.."
    assert label_of(str(path)) == "a_hole"
    assert (label_of("left"), label_of("random:0.8")) == ("left", "random_80")


def test_what_is_no_mask_is_refused(tmp_path):
    wide, text = tmp_path / "wide.png", tmp_path / "text.png"
    Image.new("L", (7, 5), 255).save(wide)
    text.write_text("no picture")
    blank, full = tmp_path / "blank.png", tmp_path / "full.png"
    Image.new("L", (6, 5), 0).save(blank)
    Image.new("L", (6, 5), 255).save(full)
    for name, said in (
        (str(wide), r"wide\.png: 5x7 pixels \(rows x columns\), the images have 5x6"),
        (str(text), r"text\.png: not a whole image \(no PNG\); give a PNG file"),
        (str(tmp_path / "none.png"), r"none\.png: no such file"),
        (str(blank), r"blank\.png: no pixel is missing"),
        (str(full), r"full\.png: every pixel is missing"),
        ("middle", r"mask middle: no such mask; there are left, right"),
        ("random", r"mask random: a share between 0 and 1"),
        ("random:1", r"mask random:1: a share between 0 and 1"),
        ("random:half", r"mask random:half: a share between 0 and 1"),
    ):
        with pytest.raises(BadInput, match=said):
            missing_pixels(name, 5, 6, 0)
