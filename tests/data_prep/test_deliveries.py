"""What arrives in a folder later: appended as new shards, the old ones and the held-out images untouched."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from data_prep.fetch import fetch
from data_prep.folder import deliveries
from data_prep.pictures import ink, paper_level, split_of, square
from data_prep.shard_set import shard_set
from data_prep.verify import verify
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.images import load_split
from seqgen.data.manifest import Manifest, Oblong
from seqgen.data.settings import DataConfig


def paint(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def small(path: Path) -> np.ndarray:
    levels = ink(path.read_bytes(), path)
    return square(levels, 8, paper_level(levels, "light"))


def names_in(split: str, count: int, start: int = 100) -> list[str]:
    """The first `count` names from `start` on that fall to `split`."""
    names = (f"{number}.png" for number in range(start, 10_000))
    return [name for name in names if split_of(name, 0) == split][:count]


class Inbox:
    """40 pictures, sharded."""

    def __init__(self, place: Path) -> None:
        self.folder, self.raw, self.shards = place / "inbox", place / "raw", place / "shards"
        self.listing = self.raw / "folder/SHA256SUMS"
        for number in range(40):
            paint(self.folder / f"{number}.png", number)
        self.data = DataConfig(source="folder", path=str(self.folder), size=8, binarise="grey")
        self.said: list[str] = []
        self.first = self.make()

    def fetch(self) -> None:
        fetch(["folder"], self.raw, folder=self.data.path, shards=self.shards, notice=self.said.append)

    def make(self) -> Manifest:
        self.fetch()
        return shard_set(self.data, self.raw, self.shards, processes=1)

    def state(self) -> dict[str, tuple[str, int]]:
        """Digest and inode of every file of the set."""
        return {
            path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_ino)
            for path in self.shards.iterdir()
        }


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def test_what_is_new_is_appended_and_all_else_stays(inbox: Inbox, tmp_path: Path):
    before = inbox.state()
    new = names_in("train", 7)
    for seed, name in enumerate(new, 1000):
        paint(inbox.folder / name, seed)
    waiting = [*names_in("test", 2), *names_in("valid", 1)]
    for seed, name in enumerate(waiting, 2000):
        paint(inbox.folder / name, seed)
    shutil.copyfile(inbox.folder / "0.png", inbox.folder / names_in("test", 3)[2])  # a copy is no new image
    old_train = next(name for name in map("{}.png".format, range(40)) if split_of(name, 0) == "train")
    (inbox.folder / old_train).unlink()  # it was taken long ago
    second = inbox.make()

    assert "50 images" in inbox.said[-1]
    assert "10 of them new; 1 more are copies of them" in inbox.said[-1]
    assert second.parent == inbox.first.digest != second.digest
    after = inbox.state()
    assert {name: found for name, found in after.items() if name in before and name != "manifest.json"} == {
        name: found for name, found in before.items() if name != "manifest.json"
    }
    assert set(after) - set(before) == {"train-000001.tar"}
    for split in ("valid", "test"):
        assert second.splits[split] == inbox.first.splits[split]
    verify(inbox.shards)
    images = load_split(inbox.shards, "train").images.numpy()
    appended = [small(inbox.folder / name) for name in sorted(new)]
    assert inbox.first.looks is not None
    assert second.looks is not None
    assert inbox.first.looks.oblong == Oblong(images=40, widest=(12, 10), tallest=(12, 10))
    assert second.looks.oblong == Oblong(
        images=47, widest=(12, 10), tallest=(12, 10)
    )  # all that are in the set
    assert np.array_equal(images[inbox.first.splits["train"].images :], np.stack(appended))
    assert second.mean == images.sum(dtype=int) / (images.size * 255)

    # from the listing alone, where all pictures are still there: the same bytes
    paint(inbox.folder / old_train, int(old_train.removesuffix(".png")))
    shard_set(inbox.data, inbox.raw, tmp_path / "again", processes=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == {
        path.name: path.read_bytes() for path in inbox.shards.iterdir()
    }


def test_without_anything_for_training_nothing_is_written(inbox: Inbox):
    before = inbox.state()
    assert inbox.make() == inbox.first
    assert inbox.state() == before
    paint(inbox.folder / names_in("test", 1)[0], 1000)
    assert inbox.make() == inbox.first
    assert inbox.state() == before
    paint(inbox.folder / names_in("train", 1)[0], 1001)
    third = inbox.make()
    assert third.parent == inbox.first.digest
    assert [len(delivery.files) for delivery in deliveries(inbox.listing)] == [40, 2]


def test_an_image_that_changed_is_a_new_one_of_its_split(inbox: Inbox):
    train, held = (
        next(name for name in map("{}.png".format, range(40)) if split_of(name, 0) == split)
        for split in ("train", "test")
    )
    for name in (train, held):
        paint(inbox.folder / name, 5000)
    paint(inbox.folder / held, 5001)
    second = inbox.make()
    assert second.splits["test"] == inbox.first.splits["test"]
    assert second.splits["train"].images == inbox.first.splits["train"].images + 1


def test_bad_pictures_are_all_named_and_nothing_is_taken(inbox: Inbox):
    before, listed = inbox.state(), inbox.listing.read_bytes()
    for seed, name in enumerate(names_in("train", 3), 1000):
        paint(inbox.folder / name, seed)
    whole = (inbox.folder / "0.png").read_bytes()
    for name, content in {
        "cut.png": whole[: len(whole) // 2],
        "no.jpg": b"no picture",
        "none.pgm": b"",
    }.items():
        (inbox.folder / name).write_bytes(content)
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(inbox.folder / "deep.png")
    with pytest.raises(BadInput) as caught:
        inbox.make()
    for name in (
        "cut.png: not a whole image",
        "no.jpg: not",
        "none.pgm: not",
        "deep.png: I;16, not of 8 bits",
    ):
        assert f"{inbox.folder}/{name}" in str(caught.value)
    assert (inbox.state(), inbox.listing.read_bytes()) == (before, listed)
    for name in ("cut.png", "no.jpg", "none.pgm", "deep.png"):
        (inbox.folder / name).unlink()
    assert inbox.make().splits["train"].images == inbox.first.splits["train"].images + 3


def test_a_damaged_shard_is_made_again_from_the_pictures(inbox: Inbox):
    before = {path.name: path.read_bytes() for path in inbox.shards.iterdir()}
    shard = inbox.shards / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    assert inbox.make() == inbox.first
    assert {path.name: path.read_bytes() for path in inbox.shards.iterdir()} == before


def test_a_listing_that_the_shards_were_not_made_from_is_refused(inbox: Inbox):
    listed = inbox.listing.read_bytes()
    for content in (listed.replace(b"0.png", b"9.png", 1), None):
        inbox.listing.unlink()
        if content:
            inbox.listing.write_bytes(content)
        with pytest.raises(BadInput, match="not the listing that the shards were made from"):
            inbox.make()
        inbox.listing.write_bytes(listed)
    shutil.rmtree(inbox.shards)
    inbox.listing.unlink()
    assert inbox.make() == inbox.first


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(key, value)
    client = boto3.Session().client("s3")
    client.create_bucket(Bucket="arrivals")
    yield client
    server.stop()


def test_pictures_below_an_s3_prefix_are_brought_once_and_appended(bucket, inbox: Inbox, tmp_path: Path):
    for path in inbox.folder.iterdir():
        bucket.put_object(Bucket="arrivals", Key=f"faces/in/{path.name}", Body=path.read_bytes())
    bucket.put_object(Bucket="arrivals", Key="faces/in/notes.txt", Body=b"no picture")
    bucket.put_object(Bucket="arrivals", Key="faces/in/empty/", Body=b"")  # how S3 shows a folder
    bucket.put_object(Bucket="arrivals", Key="faces/index.png", Body=b"of another prefix")
    there = Inbox.__new__(Inbox)
    there.raw, there.shards, there.said = tmp_path / "raw2", tmp_path / "shards2", []
    there.data = DataConfig(source="folder", path="s3://arrivals/faces/in", size=8, binarise="grey")
    first = there.make()
    assert first.splits == inbox.first.splits
    assert "s3://arrivals/faces/in: 40 images brought" in there.said
    assert there.said[-1].startswith("1 file of another kind is left out: notes.txt; ")

    (name,) = names_in("train", 1)
    paint(tmp_path / name, 1000)
    bucket.put_object(Bucket="arrivals", Key=f"faces/in/{name}", Body=(tmp_path / name).read_bytes())
    bucket.delete_object(Bucket="arrivals", Key="faces/in/0.png")  # taken already
    second = there.make()
    assert second.parent == first.digest
    assert second.splits["train"].images == first.splits["train"].images + 1
    assert "s3://arrivals/faces/in: 1 images brought" in there.said

    bucket.put_object(Bucket="arrivals", Key="faces/in/a/../../b.png", Body=b"leads out, and is hidden")
    bucket.put_object(Bucket="arrivals", Key="faces/in/bad.png", Body=b"no picture")
    with pytest.raises(BadInput, match=r"faces/in/bad\.png: not a whole image"):
        there.make()
    bucket.put_object(Bucket="arrivals", Key="webp/a.webp", Body=b"of another kind")
    with pytest.raises(
        BadInput, match=r"no \.jpeg.* file in it; 1 file of another kind is left out: a\.webp"
    ):
        fetch(["folder"], tmp_path / "raw4", folder="s3://arrivals/webp", notice=lambda line: None)
    bucket.put_object(Bucket="arrivals", Key="faces/in//b.png", Body=b"of no folder")
    with pytest.raises(BadInput) as caught:
        there.make()
    first_line, second_line = str(caught.value).splitlines()  # keys and files in one list
    assert "the key '/b.png' is no path below a folder" in first_line
    assert "bad.png: not a whole image" in second_line
    assert not list(tmp_path.rglob("b.png"))
    with pytest.raises((BadInput, OperationalError), match="NoSuchBucket"):
        fetch(["folder"], tmp_path / "raw3", folder="s3://nowhere/x", notice=lambda line: None)
