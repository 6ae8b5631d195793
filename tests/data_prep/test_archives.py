"""Hostile and damaged zips and PNGs are refused with the member's name; odd but honest names are not."""

from __future__ import annotations

import zipfile

import numpy as np

from data_prep.omniglot import content_digest, decode_drawing


def test_the_content_digest_is_that_of_any_packing(make, tmp_path):
    members = make.character("set/Alpha/character01")
    one = make.zip(tmp_path / "1.zip", members)
    with zipfile.ZipFile(tmp_path / "2.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("set/", b"")
        for name in reversed(members):
            archive.writestr(zipfile.ZipInfo(name, (1999, 1, 1, 0, 0, 0)), members[name])
        archive.writestr("__MACOSX/set/._x", b"Finder")
        archive.writestr("set/.DS_Store", b"Finder")
    assert one.read_bytes() != (tmp_path / "2.zip").read_bytes()
    assert content_digest(one) == content_digest(tmp_path / "2.zip")
    members["set/Alpha/character01/0001_07.png"] = make.png(99)
    assert content_digest(make.zip(tmp_path / "3.zip", members)) != content_digest(one)


def test_ink_is_one(make):
    assert np.array_equal(decode_drawing(make.png(3), "x"), ~_pixels(make.png(3)))


def _pixels(png):
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)))
