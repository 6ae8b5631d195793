"""The stand-in for Omniglot: its layout, its sameness on every run, and that it draws characters."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from data_prep import strokes
from data_prep.archive import CheckedZip
from data_prep.omniglot import characters, decode_drawing
from data_prep.splits import split_characters
from data_prep.strokes import write_archives


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return write_archives(tmp_path_factory.mktemp("strokes"))


@pytest.fixture(scope="module")
def drawings(archives):
    """bool [300, 20, 105, 105] of the background archive."""
    with CheckedZip(archives[0]) as archive:
        return np.stack(
            [[decode_drawing(archive.read(name), name) for name in c.members] for c in characters(archive)]
        )


def test_it_has_omniglots_layout_and_says_what_it_is(archives):
    found = {}
    for path in archives:
        with CheckedZip(path) as archive:
            found[path.name] = characters(archive)
        assert b"NOT Omniglot" in zipfile.ZipFile(path).comment
    assert {name: len(cs) for name, cs in found.items()} == {
        "images_background.zip": 300,
        "images_evaluation.zip": 200,
    }
    assert len({c.alphabet for cs in found.values() for c in cs}) == 50
    for split, test in (("30-20", 200), ("40-10", 100), ("45-5", 50), ("weak", 150)):
        assert len(split_characters(*found.values(), split)["test"]) == test


def test_it_is_the_same_on_every_run_and_with_any_number_of_processes(archives, tmp_path, monkeypatch):
    monkeypatch.setattr(strokes, "ARCHIVES", {"images_background": 2, "images_evaluation": 1})
    runs = [write_archives(tmp_path / f"{n}", processes=n) for n in (1, 2)]
    assert [path.read_bytes() for path in runs[0]] == [path.read_bytes() for path in runs[1]]
    with zipfile.ZipFile(runs[0][0]) as few, zipfile.ZipFile(archives[0]) as many:
        assert few.namelist() == many.namelist()[:400]
        assert all(few.read(name) == many.read(name) for name in few.namelist())


def test_drawings_have_visible_ink_away_from_the_edges(drawings):
    ink = drawings.mean((2, 3))
    assert ink.min() > 0.01
    assert ink.max() < 0.25
    assert not drawings[..., [0, -1], :].any()
    assert not drawings[..., :, [0, -1]].any()


def test_drawers_differ_but_draw_the_same_character(drawings):
    """A drawing is nearest to the mean of its own character's other drawings, among its whole alphabet's."""
    blurred = drawings[..., 1:, 1:].reshape(300, 20, 13, 8, 13, 8).mean((3, 5)).reshape(30, 10, 20, -1)
    assert all(len({drawing.tobytes() for drawing in character}) == 20 for character in drawings)
    probes, references = blurred[:, :, 0], blurred[:, :, 1:].mean(2)
    distance = ((probes[:, :, None] - references[:, None]) ** 2).sum(-1)  # [alphabet, probe, reference]
    right = distance.argmin(2) == np.arange(10)
    assert right.mean() > 0.8
