"""A set that is streamed: fetched by shards, confirmed, kept in a bounded cache, in an order that is arithmetic."""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqgen import training
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.batches import TrainingBatches
from seqgen.data.images import load_split
from seqgen.data.manifest import Shard, read_manifest
from seqgen.data.order import shard_order, windowed_order
from seqgen.data.published import PublishedSet
from seqgen.data.shard_cache import ShardCache
from seqgen.data.streamed import StreamedImages
from tests.sets import write_strokes
from tests.streamed_set import COUNTS, DATA, EACH, SIZE, recipe_of, write_set


class Folder:
    """Fetches from a folder, and counts; `meddle` may alter what comes."""

    def __init__(
        self, root: Path, meddle: Callable[[str, bytes], bytes] = lambda name, content: content
    ) -> None:
        self.root, self.meddle, self.fetched = root, meddle, []

    def __str__(self) -> str:
        return "folder://set"

    def fetch(self, name: str, sha256: str | None = None) -> bytes | None:
        self.fetched.append(name)
        path = self.root / name
        return self.meddle(name, path.read_bytes()) if path.is_file() else None


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("streamed") / "set"
    write_set(made)
    return made


@pytest.fixture
def largest(directory: Path) -> int:
    """The bytes of the largest training shard."""
    return max(shard.bytes for shard in read_manifest(directory).splits["train"].shards)


def numbers(x: Tensor) -> list[int]:
    """Which drawings of `write_set` these are."""
    return (x[:, 0, :16, 0].long() << torch.arange(16)).sum(1).tolist()


def batches(images: Any, conditional: bool = False, **options: Any) -> TrainingBatches:
    return TrainingBatches(images, DATA, 12, conditional=conditional, seed=3, **options)


def test_an_epoch_has_every_image_once_in_windows_of_shards():
    order = windowed_order(COUNTS, 3, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(sum(COUNTS)))
    shard_of = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))[order]
    shards, start = shard_order(len(COUNTS), 1, 2), 0
    for window in shards.split(3):
        end = start + sum(COUNTS[shard] for shard in window)
        assert set(shard_of[start:end].tolist()) == set(window.tolist())
        start = end
    assert not shards.equal(shard_order(len(COUNTS), 1, 3))
    assert not order.equal(windowed_order(COUNTS, 3, seed=2, epoch=2))


def test_a_position_in_a_window_has_any_of_its_images_equally_often():
    first = [int(windowed_order((4, 4, 4), 2, seed, 0)[0]) for seed in range(6000)]
    counts = torch.bincount(torch.tensor(first), minlength=12).double()
    assert float(((counts - 500) ** 2 / 500).sum()) < 31.3  # chi-square, 11 degrees of freedom: p = 0.001


@pytest.mark.parametrize("conditional", [False, True])
def test_what_is_kept_in_memory_changes_no_batch(directory: Path, conditional: bool):
    everything, little = (
        StreamedImages(directory, "train", 2),
        StreamedImages(directory, "train", 2, 120 * SIZE**2),
    )
    whole = load_split(directory, "train")
    for rank in range(2):
        a, b = (batches(images, conditional, rank=rank, size=2) for images in (everything, little))
        order = windowed_order(COUNTS, 2, 3, 0)
        for epoch, step in [*((0, step) for step in range(a.steps)), (4, 9), (1, 0), (1, 16), (2, 0)]:
            ours, theirs = b.at(epoch, step), a.at(epoch, step)
            assert ours.x.equal(theirs.x)
            assert (ours.context is not None) == conditional
            assert ours.context is None or ours.context.equal(theirs.context)
            if epoch == 0:
                mine = order[12 * step :][:12][6 * rank :][:6]
                assert numbers(ours.x) == mine.tolist()
                assert ours.x.squeeze(1).equal(whole.pixels(mine).float())
            assert len(little._here) + len(little._reading) <= 4


def test_two_windows_are_read_ahead_and_the_next_epoch_too(directory: Path, tmp_path: Path):
    folder = Folder(directory)
    images = StreamedImages(PublishedSet(folder, ShardCache(tmp_path, 0)), "train", 2, 120 * SIZE**2)
    source = batches(images)
    for epoch in range(2):
        for step in range(source.steps):
            source.at(epoch, step)
            for future in list(images._reading.values()):
                future.result()
    fetched = [name for name in folder.fetched if name.startswith("train")]
    expected = [shard for epoch in range(2) for shard in shard_order(len(COUNTS), 3, epoch).tolist()]
    order = [int(name[6:12]) for name in fetched]
    assert len(order) <= len(expected) + 2, "each once an epoch, and the beginning of the third"
    assert set(order[: len(COUNTS)]) == set(range(len(COUNTS)))


def test_contexts_are_of_the_character_as_without_a_window(directory: Path):
    source = batches(StreamedImages(directory, "train", 2), conditional=True, contexts=(3,))
    for step in range(source.steps):
        x, context = source.at(0, step)
        for number, *others in zip(
            numbers(x), *(numbers(each.unsqueeze(1)) for each in context.unbind(1)), strict=True
        ):
            assert {other // EACH for other in others} == {number // EACH}
            assert len({number, *others}) == 4


def test_contexts_that_a_shard_does_not_have_are_refused_with_its_name(directory: Path, tmp_path: Path):
    source = batches(StreamedImages(directory, "train", 2), conditional=True, contexts=(10,))
    with pytest.raises(BadInput, match=r"10 contexts .* has 9: .*train\.shuffle_shards.*train-00000\d\.tar"):
        source.at(0, 0)
    write_strokes(tmp_path)
    alphabets = batches(StreamedImages(tmp_path, "train", 1), conditional=True, pairs="alphabet")
    assert alphabets.at(0, 0).context is not None


def test_a_batch_may_be_larger_than_two_windows(directory: Path):
    little, everything = (StreamedImages(directory, "train", 1, memory) for memory in (60 * SIZE**2, None))
    ours, theirs = (
        TrainingBatches(images, DATA, 100, conditional=True, seed=3) for images in (little, everything)
    )
    for step in (0, 1, 0):
        for a, b in zip(ours.at(0, step), theirs.at(0, step), strict=True):
            assert a.equal(b)


def test_windows_that_do_not_fit_in_memory_are_refused_with_how_many_do(directory: Path):
    shard = 30 * SIZE**2
    with pytest.raises(
        BadInput, match=r"train\.shuffle_shards=3: .* keeps 94,080 at most; choose 2 or fewer"
    ):
        StreamedImages(directory, "train", 3, 4 * shard)
    with pytest.raises(BadInput, match="more memory, or smaller shards"):
        StreamedImages(directory, "train", 1, shard)
    assert len(StreamedImages(directory, "train", 100, 7 * shard)) == 200


def test_a_set_is_the_same_whether_it_is_fetched_or_here(directory: Path, tmp_path: Path, largest: int):
    place = PublishedSet(Folder(directory), ShardCache(tmp_path, 2 * largest))
    assert read_manifest(place) == read_manifest(directory)
    for memory in (None, 0):
        assert load_split(place, "train", memory=memory).images.equal(load_split(directory, "train").images)
    ours, theirs = (batches(StreamedImages(each, "train", 2, 120 * SIZE**2)) for each in (place, directory))
    for epoch in range(2):
        for step in range(ours.steps):
            assert ours.at(epoch, step).x.equal(theirs.at(epoch, step).x)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.tar")) <= 2 * largest


def test_the_cache_keeps_what_was_used_last(directory: Path, tmp_path: Path, largest: int):
    folder = Folder(directory)
    place = PublishedSet(folder, ShardCache(tmp_path, 3 * largest))
    shards = read_manifest(directory).splits["train"].shards
    for number in (0, 1, 2, 0, 3):  # the fourth takes the place of 1
        place.shard(shards[number])
    kept = {path.stem for path in tmp_path.glob("*.tar")}
    assert kept == {shards[number].sha256 for number in (0, 2, 3)}
    folder.fetched.clear()
    for number in (0, 2, 3):
        place.shard(shards[number])
    assert folder.fetched == []


def test_an_altered_shard_of_the_cache_is_fetched_again(directory: Path, tmp_path: Path):
    folder = Folder(directory)
    place = PublishedSet(folder, ShardCache(tmp_path, 2**20))
    shard = read_manifest(directory).splits["train"].shards[0]
    content = place.shard(shard)
    kept = next(tmp_path.glob("*.tar"))
    for damage in (content[:-1], content[:700] + bytes([content[700] ^ 1]) + content[701:], b""):
        kept.write_bytes(damage)
        with pytest.warns(UserWarning, match="altered since it was fetched"):
            assert place.shard(shard) == content
    assert folder.fetched == [shard.name] * 4
    assert kept.read_bytes() == content


@pytest.mark.parametrize(
    "meddle",
    [
        lambda content: content[:-512],
        lambda content: content[:600] + bytes([content[600] ^ 1]) + content[601:],
        lambda content: b"",
    ],
    ids=["cut", "flipped bit", "empty"],
)
def test_a_damaged_file_is_refused_by_name_and_not_kept(
    directory: Path, tmp_path: Path, meddle: Callable[[bytes], bytes]
):
    def only_one(name: str, content: bytes) -> bytes:
        return meddle(content) if name == "train-000004.tar" else content

    place = PublishedSet(Folder(directory, only_one), ShardCache(tmp_path, 2**20))
    source = batches(StreamedImages(place, "train", 2, 120 * SIZE**2))
    with pytest.raises(OperationalError, match=r"folder://set/train-000004\.tar: damaged"):
        all(source.at(0, step) for step in range(source.steps))
    damaged = read_manifest(directory).splits["train"].shards[4]
    assert not list(tmp_path.glob(f"{damaged.sha256}*"))


def test_what_is_not_there_is_named(directory: Path, tmp_path: Path):
    place = PublishedSet(Folder(tmp_path), ShardCache(tmp_path / "cache", 2**20))
    with pytest.raises(BadInput, match=r"folder://set/manifest\.json: no manifest"):
        read_manifest(place)
    with pytest.raises(OperationalError, match=r"folder://set/train-000000\.tar: missing"):
        place.shard(read_manifest(directory).splits["train"].shards[0])
    with pytest.raises(BadInput, match="no split 'tran'"):
        StreamedImages(directory, "tran", 2)


def test_a_cache_that_cannot_be_written_keeps_nothing_and_stops_nothing(directory: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    folder = Folder(directory)
    place = PublishedSet(folder, ShardCache(tmp_path / "file" / "cache", 2**20))
    shard = read_manifest(directory).splits["train"].shards[0]
    with pytest.warns(UserWarning, match=r"cache: keeps no shards \(Not a directory\)"):
        assert place.shard(shard) == place.shard(shard)
    assert folder.fetched == [shard.name] * 2


def test_a_shard_larger_than_the_cache_passes_through(directory: Path, tmp_path: Path, largest: int):
    shard = read_manifest(directory).splits["train"].shards[0]
    place = PublishedSet(Folder(directory), ShardCache(tmp_path, shard.bytes - 1))
    assert len(place.shard(shard)) == shard.bytes
    assert not list(tmp_path.glob("*.tar"))


def test_a_fetch_that_fails_once_is_tried_again_when_the_shard_is_needed(directory: Path, tmp_path: Path):
    failed = []

    def once(name: str, content: bytes) -> bytes:
        if name not in failed:
            failed.append(name)
            raise OperationalError(f"{name}: the storage does not answer")
        return content

    folder = Folder(directory)
    place = PublishedSet(folder, ShardCache(tmp_path, 0))
    images = StreamedImages(place, "train", 1, 60 * SIZE**2)
    source, plain = batches(images), batches(StreamedImages(directory, "train", 1))
    _, ahead, *_ = shard_order(len(COUNTS), 3, 0).tolist()
    folder.meddle = lambda name, content: once(name, content) if name == f"train-{ahead:06d}.tar" else content
    for step in range(source.steps):
        assert source.at(0, step).x.equal(plain.at(0, step).x)
        for future in list(images._reading.values()):
            future.exception()  # wait for it
    assert failed == [f"train-{ahead:06d}.tar"]


def _read_all(directory: Path, cache: Path, limit: int, log: Path, seed: int) -> None:
    class Logged(Folder):
        def fetch(self, name: str, sha256: str | None = None) -> bytes | None:
            with log.open("a") as stream:
                stream.write(f"{name}\n")
            time.sleep(0.02)
            return super().fetch(name)

    place = PublishedSet(Logged(directory), ShardCache(cache, limit))
    shards = read_manifest(directory).splits["train"].shards
    for number in np.random.default_rng(seed).permutation(len(shards) * 5):
        shard = shards[number % len(shards)]
        assert place.shard(shard) == (directory / shard.name).read_bytes()


@pytest.mark.parametrize("room", [1, 3, 100])
def test_processes_share_a_cache_and_its_bound(directory: Path, tmp_path: Path, largest: int, room: int):
    cache, log, limit = tmp_path / "cache", tmp_path / "log", room * largest
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_read_all, args=(directory, cache, limit, log, seed)) for seed in range(4)
    ]
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        sizes = []
        for path in cache.glob("*"):
            try:
                sizes.append(path.stat().st_size if path.is_file() else 0)
            except FileNotFoundError:
                continue
        most = max(most, sum(sizes))
        time.sleep(0.005)
    assert [process.exitcode for process in processes] == [0] * 4
    assert 0 < most <= limit
    if room == 100:
        assert sorted(log.read_text().split()) == [f"train-{number:06d}.tar" for number in range(len(COUNTS))]


def _fetch_for_ever(cache: ShardCache, shard: Shard, begun: Any) -> None:
    def fetch() -> bytes:
        begun.set()
        time.sleep(600)
        raise AssertionError

    cache.get(shard, fetch)


def test_a_process_that_is_killed_while_it_fetches_keeps_nobody_waiting(directory: Path, tmp_path: Path):
    folder, cache = Folder(directory), ShardCache(tmp_path, 2**20)
    shard = read_manifest(directory).splits["train"].shards[0]
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=_fetch_for_ever, args=(cache, shard, begun))
    process.start()
    assert begun.wait(60)
    process.kill()
    process.join()
    (tmp_path / "arriving").write_bytes(b"half a shard")  # as one leaves that is killed while it writes
    assert PublishedSet(folder, cache).shard(shard) == (directory / shard.name).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"locks", f"{shard.sha256}.tar"}


@pytest.mark.parametrize("window", [None, 2])
def test_a_training_that_is_streamed_ends_with_the_same_bits(
    directory: Path, tmp_path: Path, largest: int, monkeypatch: pytest.MonkeyPatch, window: int | None
):
    recipe = recipe_of(shuffle_shards=window)
    on_disk = training.run(recipe, directory, threads=1)
    run = importlib.import_module("seqgen.training.run")
    monkeypatch.setattr(run, "image_memory", lambda *_: 120 * SIZE**2)  # less than the set
    folder = Folder(directory)
    streamed = training.run(recipe, PublishedSet(folder, ShardCache(tmp_path, 2 * largest)), threads=1)
    assert all(a.equal(b) for a, b in zip(on_disk.parameters(), streamed.parameters(), strict=True))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.tar")) <= 2 * largest
    if window:
        assert len([name for name in folder.fetched if name.startswith("train")]) > len(COUNTS)


def test_a_window_is_part_of_what_is_learned_and_its_absence_of_no_digest():
    assert recipe_of(shuffle_shards=2).digest() != recipe_of(shuffle_shards=3).digest()
    assert "shuffle_shards" not in recipe_of().train.learned()
    with pytest.raises(BadInput, match=r"shuffle_shards"):
        recipe_of(shuffle_shards=0)
