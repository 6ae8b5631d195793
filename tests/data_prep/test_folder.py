"""Any folder of images: listed, cut, split; the same bytes each time; one clear error for what is wrong with it."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_prep.fetch import fetch
from data_prep.pictures import ink, paper_level, split_of, square
from data_prep.shard_set import shard_set
from data_prep.verify import verify
from seqgen.core.errors import BadInput
from seqgen.data.images import load_split
from seqgen.data.manifest import read_manifest
from seqgen.data.settings import DataConfig


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """60 images of several sizes and three formats, in two folders, and what is no image beside them."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for number in range(60):
        kind, *colour = (("png", 3), ("jpg",), ("pgm",))[number % 3]
        pixels = random.integers(0, 256, (20 + number % 7, 16 + number % 5, *colour), np.uint8)
        save(folder / f"part{number % 2}" / f"{number:03d}.{kind}", pixels)
    (folder / "README.txt").write_text("no image")
    (folder / "part0" / "._000.png").write_bytes(b"what a Mac leaves")
    return folder


def settings(folder: Path, **changes: object) -> DataConfig:
    return DataConfig(**{"source": "folder", "path": str(folder), "size": 8, "binarise": "grey"} | changes)  # type: ignore[arg-type]


def make(data: DataConfig, place: Path) -> Path:
    fetch(["folder"], place / "raw", folder=data.path, notice=lambda line: None)
    shard_set(data, place / "raw", place / "shards", processes=1)
    return place / "shards"


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def small(path: Path, size: int) -> np.ndarray:
    levels = ink(path.read_bytes(), path)
    return square(levels, size, paper_level(levels, "light"))


def slow_square(levels: np.ndarray, size: int, fill: int) -> np.ndarray:
    """The mean over what each pixel covers, source pixel by source pixel."""
    height, width = levels.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    whole = np.full((side, side), fill)
    whole[top : top + height, left : left + width] = levels
    result = np.zeros((size, size))

    def covered(target: int, source: int) -> float:
        scale = side / size
        return max(0.0, min((target + 1) * scale, source + 1) - max(target * scale, source))

    for row in range(size):
        for column in range(size):
            for y in range(side):
                for x in range(side):
                    share = covered(row, y) * covered(column, x)
                    result[row, column] += share * whole[y, x] * (size / side) ** 2
    return result


@pytest.mark.parametrize(("shape", "size"), [((9, 13), 4), ((12, 8), 8), ((16, 16), 4), ((5, 6), 8)])
@pytest.mark.parametrize("fill", [0, 37, 255])
def test_a_square_is_the_area_average_of_the_whole_image_filled_up(
    shape: tuple[int, int], size: int, fill: int
):
    levels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    expected = slow_square(levels, size, fill)
    found = square(levels, size, fill)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.5 + 1e-9
    assert (square(np.full(shape, fill, np.uint8), size, fill) == fill).all()


def test_what_a_drawing_is_filled_up_with_is_its_own_paper():
    scan = np.full((9, 5), 20, np.uint8)  # grey paper, 255 is ink
    scan[0, :] = 25
    scan[:, 1:4] = 230  # a stroke from edge to edge
    assert paper_level(scan, "light") == 20
    assert paper_level(255 - scan, "dark") == 235
    for level, paper, expected in (
        (255, "light", 0),
        (20, "light", 20),
        (0, "dark", 255),
        (240, "dark", 240),
    ):
        assert paper_level(np.full((9, 5), level, np.uint8), paper) == expected  # all ink, or all paper


def test_ink_is_what_luma_lacks_and_exif_turns_it_upright():
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, :, 0], pixels[1, :, 1] = 255, 255  # a red row above a green one
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    found = ink(buffer.getvalue(), Path("x.png"))
    assert found.tolist() == [[255 - 150] * 3, [255 - 76] * 3]  # 0.587 and 0.299 of 255


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def with_exif(kind: str, orientation: int = 1) -> bytes:
    """PIXELS in a file whose EXIF has a maker and a resolution, as a camera's has."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = orientation, "maker", 72.0
    Image.fromarray(PIXELS).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation: int):
    content = with_exif("PNG", orientation)
    with Image.open(io.BytesIO(content)) as picture:
        expected = 255 - np.asarray(ImageOps.exif_transpose(picture).convert("L"))
    assert np.array_equal(ink(content, Path("x.png")), expected)


def test_odd_tags_beside_the_orientation_do_not_matter():
    content = with_exif("JPEG", 6)
    odd = content.replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")  # the resolution is a text
    assert odd != content
    assert np.array_equal(ink(odd, Path("x.jpg")), ink(content, Path("x.jpg")))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_whatever_bit_is_wrong_it_is_a_picture_or_bad_input(kind: str):
    content = with_exif(kind, 6)
    refused = []
    for place in range(len(content)):
        for bit in range(8):
            wrong = bytearray(content)
            wrong[place] ^= 1 << bit
            try:
                levels = ink(bytes(wrong), Path("x"))
            except BadInput as error:
                refused.append(str(error))
            else:
                assert levels.dtype == np.uint8
                assert levels.ndim == 2
    assert 0 < len(refused) < 8 * len(content)
    assert all(line.startswith("x: ") and " at 0x" not in line for line in refused)


def test_a_set_has_every_image_once_in_the_split_of_its_name_the_same_bytes_twice(pictures, tmp_path):
    data = settings(pictures)
    first, second = (make(data, tmp_path / name) for name in ("one", "two"))
    assert digests(first) == digests(second)
    manifest = verify(first)
    assert [source.name for source in manifest.sources] == ["SHA256SUMS"]
    listing = (tmp_path / "one/raw/folder/SHA256SUMS").read_text().splitlines()
    names = [line.split("  ", 1)[1] for line in listing]
    assert names == sorted(names)
    assert len(names) == 60
    for line, name in zip(listing, names, strict=True):
        assert line.startswith(hashlib.sha256((pictures / name).read_bytes()).hexdigest())
    for split in ("train", "valid", "test"):
        expected = [small(pictures / name, 8) for name in names if split_of(name, 0) == split]
        images = load_split(first, split)
        assert images.levels == 256
        assert np.array_equal(images.images.numpy(), np.stack(expected))
    assert digests(make(settings(pictures, seed=1), tmp_path / "three")) != digests(first)


def test_splits_have_their_tenths_and_depend_on_name_and_seed_alone():
    splits = [split_of(f"{number}.png", 0) for number in range(10_000)]
    for split, share in (("train", 0.8), ("valid", 0.1), ("test", 0.1)):
        assert abs(splits.count(split) / 10_000 - share) < 0.015  # five standard errors and more
    assert splits != [split_of(f"{number}.png", 1) for number in range(10_000)]
    assert split_of("a.png", 0) == split_of("a.png", 0)


def test_what_is_wrong_with_a_folder_is_one_error_that_names_it(pictures, tmp_path):
    def refused(data: DataConfig) -> str:
        with pytest.raises(BadInput) as caught:
            make(data, tmp_path / "place")
        assert not (tmp_path / "place/shards").exists()
        return str(caught.value)

    assert refused(settings(tmp_path / "none")) == f"data.path={tmp_path}/none: no such folder"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    assert f"data.path={tmp_path}/empty: no .jpeg, .jpg, .pgm, .png file in it" in refused(
        settings(tmp_path / "empty")
    )
    save(tmp_path / "few/a.png", np.zeros((8, 8), np.uint8))
    assert "none of its images falls to" in refused(settings(tmp_path / "few"))
    broken = pictures / "part0" / "broken.png"
    for content in (b"not a picture", (pictures / "part0/000.png").read_bytes()[:200], b""):
        broken.write_bytes(content)
        assert refused(settings(pictures)).startswith(f"{broken}: not a whole image")
    save(broken, np.zeros((9, 9), np.uint16))
    assert refused(settings(pictures)).startswith(f"{broken}: I;16, not of 8 bits")
    if os.geteuid():  # root reads everything
        broken.chmod(0)
        assert refused(settings(pictures)).startswith(f"{broken}: cannot be read (Permission denied)")


def test_files_of_other_kinds_are_named_and_what_systems_leave_is_not(tmp_path: Path):
    folder, said = tmp_path / "mine", list[str]()
    folder.mkdir()
    others = ["b.webp", "c.heic", "a.tif", "d.bmp", "notes.TXT"]
    for name in [*others, ".DS_Store", "Thumbs.db", "desktop.ini", "._e.webp", ".git/HEAD"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"of another kind")
    named = (
        "5 files of other kinds are left out: a.tif, b.webp, c.heic and 2 more; "
        "save what is a picture as PNG or JPEG"
    )
    with pytest.raises(BadInput) as caught:
        fetch(["folder"], tmp_path / "raw", folder=str(folder), notice=said.append)
    assert str(caught.value) == f"data.path={folder}: no .jpeg, .jpg, .pgm, .png file in it; {named}"
    save(folder / "f.png", np.zeros((8, 8), np.uint8))
    fetch(["folder"], tmp_path / "raw", folder=str(folder), notice=said.append)
    assert said[-1] == named
    for name in others[1:]:
        (folder / name).unlink()
    (folder / "b.webp").rename(folder / "b\n.webp")
    fetch(["folder"], tmp_path / "raw", folder=str(folder), notice=said.append)
    assert said[-1].startswith("1 file of another kind is left out: 'b\\n.webp'; save")
    (folder / "b\n.webp").unlink()
    fetch(["folder"], tmp_path / "raw", folder=str(folder), notice=said.append)
    assert "1 images" in said[-1]


def test_names_that_cannot_be_listed_and_damaged_files_are_one_list(pictures: Path, tmp_path: Path):
    for name in ("part0/a\nb.png", "part1/c\x1b.png"):
        save(pictures / name, np.zeros((8, 8), np.uint8))
    (pictures / "part0/z.png").write_bytes(b"no picture")
    with pytest.raises(BadInput) as caught:
        make(settings(pictures), tmp_path)
    first, second, third = str(caught.value).splitlines()
    assert first == f"data.path={pictures}: 'part0/a\\nb.png' cannot be listed; rename it"
    assert second.startswith(f"{pictures}/part0/z.png: not a whole image")
    assert third == f"data.path={pictures}: 'part1/c\\x1b.png' cannot be listed; rename it"
    assert not (tmp_path / "raw/folder/SHA256SUMS").exists()


def test_images_that_are_not_square_are_counted_with_their_shapes(pictures: Path, tmp_path: Path):
    make(settings(pictures), tmp_path)
    sizes = [
        Image.open(path).size
        for path in pictures.rglob("*")
        if path.suffix in (".png", ".jpg", ".pgm") and path.name[0] != "."
    ]
    oblong = sorted((size for size in sizes if size[0] != size[1]), key=lambda size: size[1] / size[0])
    (widest, tallest), count = (oblong[0], oblong[-1]), len(oblong)
    assert 0 < count < 60
    sides = [max(size) for size in sizes]
    assert read_manifest(tmp_path / "shards").appearance() == (
        f"light paper, squares of {min(sides)} to {max(sides)} pixels made 8; not square: {count} images, "
        f"{widest[0]} x {widest[1]} to {tallest[0]} x {tallest[1]} pixels (width x height), filled up with paper"
    )


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(10, 7)] * 5 + [(90, 90)] * 4, 12),  # the median of the longer sides, up to a multiple of 4
        ([(8, 20)] * 5 + [(5, 5)] * 4, 20),
        ([(2, 1)] * 9, 4),
        ([(300, 200)] * 9, 64),
    ],
)
def test_a_size_is_detected_and_said(tmp_path: Path, shapes: list[tuple[int, int]], expected: int):
    folder = tmp_path / "mine"
    random = np.random.default_rng(0)
    names: dict[str, list[str]] = {split: [] for split in ("train", "valid", "test")}
    for number in range(200):
        names[split_of(f"{number}.png", 0)].append(f"{number}.png")
    chosen = [*names["train"][: len(shapes) - 2], names["valid"][0], names["test"][0]]
    for name, shape in zip(chosen, shapes, strict=True):
        save(folder / name, random.integers(0, 256, shape, np.uint8))
    make(settings(folder, size="auto"), tmp_path)
    manifest = verify(tmp_path / "shards")
    assert (manifest.height, manifest.width) == (expected, expected)
    assert f"grey, {expected} x {expected}," in manifest.title
    assert f" pixels made {expected} (detected)" in manifest.appearance()
    assert load_split(tmp_path / "shards", "train").images.shape[1:] == (expected, expected)
    make(settings(folder, size=expected), tmp_path / "chosen")
    for split in ("train", "valid", "test"):
        name = f"{split}-000000.tar"
        assert (tmp_path / "shards" / name).read_bytes() == (tmp_path / "chosen/shards" / name).read_bytes()
    for name in names["train"][20:40]:  # what comes later is made as small as the first
        save(folder / name, random.integers(0, 256, (128, 128), np.uint8))
    fetch(
        ["folder"], tmp_path / "raw", folder=str(folder), shards=tmp_path / "shards", notice=lambda line: None
    )
    second = shard_set(settings(folder, size="auto"), tmp_path / "raw", tmp_path / "shards", processes=1)
    assert (second.parent, second.height) == (manifest.digest, expected)
    afresh = shard_set(settings(folder, size="auto"), tmp_path / "raw", tmp_path / "afresh", processes=1)
    assert afresh.digest == second.digest


def test_an_image_that_changed_or_went_since_it_was_listed_is_named(pictures, tmp_path):
    data = settings(pictures)
    fetch(["folder"], tmp_path / "raw", folder=data.path, notice=lambda line: None)
    changed = pictures / "part0" / "000.png"
    before = changed.read_bytes()
    save(changed, np.zeros((9, 9), np.uint8))
    with pytest.raises(BadInput, match=f"{changed}: changed since it was fetched"):
        shard_set(data, tmp_path / "raw", tmp_path / "shards", processes=1)
    changed.unlink()
    with pytest.raises(BadInput, match=f"{changed}: cannot be read"):
        shard_set(data, tmp_path / "raw", tmp_path / "shards", processes=1)
    changed.write_bytes(before)
    save(pictures / "new.png", np.zeros((9, 9), np.uint8))  # not listed, not taken
    manifest = shard_set(data, tmp_path / "raw", tmp_path / "shards", processes=1)
    assert sum(index.images for index in manifest.splits.values()) == 60


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"path": None}, "source=folder needs the folder"),
        (
            {"source": "mnist-5k", "size": "auto", "binarise": "dynamic", "path": None},
            "size=auto: mnist-5k has 28",
        ),
        ({"source": "mnist-5k", "size": 28}, "only for source=folder; leave it out"),
        ({"size": 300}, "size=300: folder has 4 to 256"),
        ({"split": "weak"}, "folder has standard or concepts"),
        ({"threshold": 9}, "threshold=9: only for source=folder with binarise=static"),
        ({"binarise": "static", "threshold": 255}, "threshold"),
        (
            {"source": "mnist-5k", "size": 28, "path": None, "paper": "dark"},
            "paper=dark: only for source=folder",
        ),
        (
            {"source": "mnist-5k", "size": 28, "path": None, "split": "concepts"},
            "mnist-5k has only standard",
        ),
    ],
)
def test_settings_that_do_not_fit_a_folder_are_refused(changes: dict[str, object], problem: str):
    with pytest.raises(ValueError, match=problem):
        DataConfig(**{"source": "folder", "path": "faces", "size": 8, "binarise": "grey"} | changes)  # type: ignore[arg-type]


def test_the_verbs_take_a_folder(verb, pictures, tmp_path):
    asked = ("--recipe", "mnist-grey", "--set", "data.source=folder", "--set", f"data.path={pictures}")
    for name in ("fetch", "shard", "verify"):
        done = verb(name, *asked)
        assert done.returncode == 0, done.stderr
    again = verb("fetch", *asked).stdout
    assert f"60 images of {pictures}" in again
    assert "1 file of another kind is left out: README.txt" in again
    for command in (("shard", *asked), ("data", "show", "mnist-grey", *asked[2:], "--set", "train.batch=40")):
        assert "; not square: " in verb(*command).stdout
    (pictures / "part1/001.jpg").write_bytes(b"broken")
    done = verb("fetch", *asked)
    assert done.returncode == 2
    assert f"{pictures}/part1/001.jpg: not a whole image" in done.stderr
    assert "Traceback" not in done.stderr
