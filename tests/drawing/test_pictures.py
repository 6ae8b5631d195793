"""Sheets: sizes, ink, windows at the right pixels, the same bytes for the same seed."""

from __future__ import annotations

import io
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from seqgen.drawing import curves, galleries, pictures
from seqgen.drawing.pictures import INK, PAPER, READ, WRITE, Row, Sheet
from seqgen.evaluation.bounds import HeldOut
from seqgen.models import build
from seqgen.settings import ModelConfig


def colours(image: Image.Image) -> set[tuple[int, int, int]]:
    return set(map(tuple, np.asarray(image).reshape(-1, 3).tolist()))


def where(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """bool [H,W]."""
    return (np.asarray(image) == np.array(colour)).all(-1)


def test_ink_is_dark_on_light_and_every_pixel_a_crisp_square():
    picture = pictures.tile(np.array([[0.0, 1.0, 0.5]]), 4)
    assert picture.size == (12, 4)
    assert where(picture, PAPER)[:, :4].all()
    assert where(picture, INK)[:, 4:8].all()
    middle = np.asarray(picture)[:, 8:]
    assert (middle == middle[0, 0]).all()
    assert INK[0] < middle[0, 0, 0] < PAPER[0]


@pytest.mark.parametrize(
    ("height", "target", "factor"), [(28, 84, 3), (52, 84, 2), (64, 84, 1), (200, 84, 1)]
)
def test_upscaling_is_an_integer_of_at_least_one(height, target, factor):
    assert pictures.upscale(height, target) == factor


def test_a_window_is_drawn_at_its_pixels():
    picture = pictures.tile(np.zeros((10, 20)), 8)
    corners = np.array([[5, 2], [15, 2], [15, 7], [5, 7]], float)
    pictures.outline(picture, corners, 8, WRITE, width=2)
    drawn = where(picture, WRITE)
    rows, columns = np.nonzero(drawn)
    assert (columns.min(), columns.max()) == (39, 120)  # 5 * 8 - 1 and 15 * 8
    assert (rows.min(), rows.max()) == (15, 56)
    inside = drawn[18:54, 42:118]
    assert not inside.any()
    # Corners are round.
    edges = (drawn[15:17, 40:120], drawn[55:57, 40:120], drawn[16:56, 39:41], drawn[16:56, 119:121])
    assert all(edge.all() for edge in edges)


def test_x_is_the_column_and_y_the_row_of_a_rotated_window():
    picture = pictures.tile(np.zeros((20, 20)), 4)
    pictures.outline(picture, np.array([[10, 1], [14, 10], [10, 19], [6, 10]], float), 4, READ)
    drawn = where(picture, READ)
    assert drawn[5, 38:42].any()
    assert drawn[75, 38:42].any()
    assert drawn[40, 23:26].any()
    assert drawn[40, 54:58].any()
    assert not drawn[:, :22].any()
    assert not drawn[:, 58:].any()


def test_a_window_beyond_the_image_shows_at_the_border_and_one_outside_is_absent():
    picture = pictures.tile(np.zeros((10, 10)), 8)
    pictures.outline(picture, np.array([[-50, -50], [60, -50], [60, 60], [-50, 60]], float), 8, WRITE)
    drawn = where(picture, WRITE)
    assert drawn[[0, 1, -2, -1], 1:-1].all()
    assert drawn[1:-1, [0, 1, -2, -1]].all()
    assert not drawn[2:-2, 2:-2].any()

    blank = pictures.tile(np.zeros((10, 10)), 8)
    pictures.outline(blank, np.array([[20, 20], [30, 20], [30, 30], [20, 30]], float), 8, WRITE)
    assert colours(blank) == {PAPER}


def test_clipping_agrees_with_the_area_of_the_intersection():
    diamond = [(0.0, -3.0), (3.0, 0.0), (0.0, 3.0), (-3.0, 0.0)]
    part = pictures.clip(diamond, -2, -2, 2, 2)
    area = 0.5 * sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(part, part[1:] + part[:1], strict=True))
    assert area == pytest.approx(18 - 4 * 1.0)  # four corners of the diamond, each of area 1, are cut off
    assert pictures.clip(diamond, 4, 4, 5, 5) == []


def test_a_degenerate_window_does_not_fail():
    picture = pictures.tile(np.zeros((10, 10)), 8)
    pictures.outline(picture, np.full((4, 2), 5.0), 8, WRITE)
    pictures.outline(picture, np.full((4, 2), math.nan), 8, WRITE)


def test_a_sheet_places_its_tiles_in_order():
    tiles = [pictures.tile(np.full((2, 2), value), 10) for value in (0.0, 1.0, 0.0, 1.0)]
    page = pictures.render(Sheet([Row(tiles[:2]), Row(tiles[2:])], title="", heads=["a", "b"]))
    left = np.argwhere(where(page, PAPER))[0][1]
    dark = where(page, INK)
    columns = np.flatnonzero(dark.sum(0) >= 40)
    assert len(columns) == 20  # two tiles of 20 pixels, one above the other
    assert columns[0] == left + 20 + 4


def held_out(count: int = 30, concepts: int = 5) -> HeldOut:
    x = torch.randint(0, 2, (count, 1, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return HeldOut(x, x.roll(concepts, 0), torch.arange(count) % concepts)


def model(attention: str, conditional: bool, steps: int = 3, **more):
    torch.manual_seed(0)
    config = ModelConfig(
        steps=steps,
        latents=2,
        hidden=8,
        attention=attention,
        canvas="additive",
        conditional=conditional,
        **more,
        **({} if attention == "full" else {"read_size": 3, "write_size": 3}),
    )
    return build(config, 12, 12, 0.3).eval()


@pytest.mark.parametrize("attention", ["spatial-transformer", "random", "gaussian", "full"])
@pytest.mark.parametrize("conditional", [False, True])
def test_sheets_of_every_kind_of_model(attention, conditional):
    data = held_out()
    if not conditional:
        data = HeldOut(data.x, None, data.concepts)
    sheets = galleries.draw_sheets(model(attention, conditional), data, seed=0)
    names = {"samples", "reconstructions", "canvas"}
    assert set(sheets) == (names | {"exemplars"} if conditional else names)
    scale = pictures.upscale(12, 84)
    assert sheets["samples"].width == 2 * 14 + 10 * 12 * scale + 9 * 4
    windows = {READ, WRITE} | ({pictures.CONTEXT} if conditional else set())
    shown = {colour for colour in windows if where(sheets["canvas"], colour).any()}
    assert shown == (set() if attention == "full" else windows)
    if conditional:
        assert where(sheets["exemplars"], pictures.FRAME).any()


def test_every_window_of_several_is_drawn():
    network = model("axis-aligned", False, windows=2)
    head = network.step.writer.window
    with torch.no_grad():
        head.weight.zero_()
        # The window on the canvas is (u - t) / s: a quarter of the image, to the upper left and the lower right.
        head.bias.copy_(torch.tensor([4.0, 4, 2, 2, 4, 4, -2, -2]))
    data = held_out()
    sheet = galleries.draw_sheets(network, HeldOut(data.x, None, data.concepts), seed=0)["canvas"]
    drawn = int(where(sheet, WRITE).sum())
    with torch.no_grad():
        head.bias[6:] = -40.0  # beyond the canvas
    sheet = galleries.draw_sheets(network, HeldOut(data.x, None, data.concepts), seed=0)["canvas"]
    legend = 2 * int(where(sheet, WRITE).sum()) - drawn  # what is drawn once whatever the windows
    assert 0 < legend < drawn / 10


def test_the_same_seed_gives_the_same_bytes():
    data, network = held_out(), model("gaussian", True)
    first, again, other = (galleries.draw_sheets(network, data, seed) for seed in (0, 0, 1))
    for name in first:
        assert pictures.png(first[name]) == pictures.png(again[name]), name
    assert pictures.png(first["samples"]) != pictures.png(other["samples"])


def test_the_pictures_do_not_follow_the_order_of_the_set():
    x = (torch.arange(1000) % 10).view(-1, 1, 1, 1).expand(-1, 1, 12, 12)
    data = HeldOut(x, None, torch.arange(1000) % 10)
    shown, _ = galleries._pick(model("full", False), data, 100, seed=0)
    assert shown[:, 0, 0, 0].unique().tolist() == list(range(10))


def test_exemplars_show_one_context_of_each_concept_above_the_samples():
    data = held_out(30, 5)
    sheet = galleries.draw_sheets(model("full", True), data, 0)["exemplars"]
    frame = np.argwhere(where(sheet, pictures.FRAME))
    (top, left), (bottom, right) = frame.min(0), frame.max(0)
    scale = pictures.upscale(12, 84)
    side = 12 * scale
    assert (right - left + 1, bottom - top + 1) == (5 * (side + 4) - 4 + 8, side + 8)
    row = np.asarray(sheet)[top + 4 : bottom - 3, left + 4 : right - 3]
    for concept in range(5):
        square = row[:, concept * (side + 4) :][:, :side]
        expected = np.asarray(pictures.tile(data.x[concept, 0].numpy(), scale))
        assert (square == expected).all()


def test_the_canvas_shows_first_and_last_step_of_many():
    assert galleries.chosen_steps(3, 10) == [0, 1, 2]
    chosen = galleries.chosen_steps(80, 10)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 79, 10)


def test_png_bytes_are_a_picture():
    picture = pictures.tile(np.eye(3), 5)
    with Image.open(io.BytesIO(pictures.png(picture))) as read:
        assert read.format == "PNG"
        assert (np.asarray(read) == np.asarray(picture)).all()


@pytest.mark.parametrize("valid", [[math.nan, 130.0, math.nan, 110.0], [math.nan] * 4, []])
def test_curves_are_svg_and_the_same_each_time(valid):
    history = {"epoch": [1, 2, 3, 4], "seconds": [2.0] * 4, "train/free_energy": [500.0, 200.0, 150.0, 120.0]}
    if valid:
        history["valid/static/free_energy"] = valid
    svg = curves.bound_curves(history, "valid/static/free_energy")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert svg == curves.bound_curves(history, "valid/static/free_energy")
    bars = curves.kl_bars([2.0, 1.0, 0.5])
    assert bars == curves.kl_bars([2.0, 1.0, 0.5])
    assert bars != curves.kl_bars([2.0, 1.0, 0.6])
