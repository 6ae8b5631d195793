"""The gallery of a training, as it is kept in its checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.artifacts.gallery import FILE_NAME, Gallery, read_gallery


def test_what_is_written_is_read_in_the_order_of_the_epochs(tmp_path: Path):
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    Gallery({10: images[1], 9: images[0]}, images[0]).write(tmp_path / FILE_NAME)
    read = read_gallery(tmp_path / FILE_NAME)
    assert list(read.drawn) == [9, 10]
    np.testing.assert_array_equal(np.stack(list(read.drawn.values())), images)
    assert read.context is not None
    np.testing.assert_array_equal(read.context, images[0])


def test_none_was_kept(tmp_path: Path):
    assert read_gallery(tmp_path / FILE_NAME).drawn == {}
    Gallery().write(tmp_path / FILE_NAME)
    assert read_gallery(tmp_path / FILE_NAME).drawn == {}
    assert read_gallery(tmp_path / FILE_NAME).context is None
