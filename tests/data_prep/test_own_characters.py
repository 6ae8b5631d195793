"""A folder of one's own drawings: characters in subfolders, on light or dark paper, made into bits."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.concepts import concept_of, split_rule
from data_prep.fetch import fetch
from data_prep.looks import otsu
from data_prep.shard_set import shard_set
from data_prep.verify import verify
from seqgen.core.errors import BadInput
from seqgen.data.images import load_split
from seqgen.data.manifest import Manifest, Oblong, read_manifest
from seqgen.data.settings import DataConfig

SIZE = 12
Done = subprocess.CompletedProcess[str]
CONCEPTS = [f"Letters/l{number}" for number in range(7)] + [f"Signs/s{number}" for number in range(6)]


def drawing(concept: str, seed: int) -> np.ndarray:
    """Two strokes of level 20 on paper of level 235: uint8 [30, 30]; a little noise."""
    name = list(hashlib.sha256(concept.encode()).digest())
    where = np.random.default_rng(name).integers(6, 22, 2)
    random = np.random.default_rng([seed, *name])
    pixels = np.full((30, 30), 235, np.int64)
    row, column = where + random.integers(-1, 2, 2)
    pixels[row : row + 3, 4:26] = 20
    pixels[4:26, column : column + 3] = 20
    return (pixels + random.integers(-9, 10, pixels.shape)).astype(np.uint8)


def draw(folder: Path, concepts: Iterable[str], count: int = 4, dark: bool = False, start: int = 0) -> Path:
    for concept in concepts:
        (folder / concept).mkdir(parents=True, exist_ok=True)
        for seed in range(start, start + count):
            pixels = drawing(concept, seed)
            kind = "jpg" if seed % 2 else "png"
            Image.fromarray(255 - pixels if dark else pixels).save(
                folder / concept / f"{seed:02d}.{kind}", **({"quality": 95} if seed % 2 else {})
            )
    return folder


def settings(folder: Path, **changes: object) -> DataConfig:
    given = {"source": "folder", "path": str(folder), "size": SIZE, "split": "concepts", "binarise": "static"}
    return DataConfig(**given | changes)  # type: ignore[arg-type]


def list_it(data: DataConfig, place: Path) -> None:
    fetch(
        ["folder"],
        place / "raw",
        folder=data.path,
        shards=place / "shards",
        concepts=data.has_characters,
        notice=lambda line: None,
    )


def make(data: DataConfig, place: Path) -> Manifest:
    shards = place / "shards"
    list_it(data, place)
    return shard_set(data, place / "raw", shards, processes=1)


def refused(data: DataConfig, place: Path) -> list[str]:
    with pytest.raises(BadInput) as caught:
        make(data, place)
    assert not (place / "shards").exists()
    return str(caught.value).splitlines()


def test_a_concept_is_a_sample_and_lies_wholly_in_one_split(tmp_path: Path):
    folder = draw(tmp_path / "mine", CONCEPTS)
    manifest = make(settings(folder), tmp_path)
    assert {split: len(index.concepts) for split, index in manifest.splits.items()} == {
        "train": 9,
        "valid": 2,
        "test": 2,
    }
    assert sorted(concept for index in manifest.splits.values() for concept in index.concepts) == CONCEPTS
    assert (manifest.levels, manifest.title) == (
        2,
        "Drawings of a folder, binary, 12 x 12, split concepts",
    )
    verify(tmp_path / "shards")
    train = load_split(tmp_path / "shards", "train")
    assert train.concept_names == tuple(sorted(manifest.splits["train"].concepts))
    assert train.concepts.bincount().tolist() == [4] * 9
    assert len(train.alphabets.unique()) == 2
    assert int(train.alphabets.min()) == 0
    for pairs in ("character", "alphabet"):
        assert train.partners(pairs).fewest >= 3
    again = make(settings(folder, seed=1), tmp_path / "other")
    assert again.splits["test"].concepts != manifest.splits["test"].concepts


def test_concepts_may_lie_in_no_alphabet(tmp_path: Path):
    folder = draw(tmp_path / "mine", [f"c{number}" for number in range(6)])
    manifest = make(settings(folder, binarise="grey"), tmp_path)
    assert (manifest.levels, manifest.appearance()) == (256, "light paper, squares of 30 pixels made 12")
    train = load_split(tmp_path / "shards", "train")
    assert train.partners("character").fewest == 3
    with pytest.raises(BadInput, match="images of unknown alphabet"):
        train.partners("alphabet")


def test_the_splits_are_a_tenth_each_and_of_the_seed_alone():
    names = [f"{concept}/{number}.png" for concept in range(200) for number in range(3)]
    data = [settings(Path("mine"), seed=seed) for seed in (0, 1)]
    rules = [split_rule(each, names, [], "mine") for each in data]
    counted = [[rule(f"{concept}/0.png") for concept in range(200)] for rule in rules]
    for splits in counted:
        assert (splits.count("train"), splits.count("valid"), splits.count("test")) == (160, 20, 20)
    assert counted[0] != counted[1]
    assert all(rules[0](name) == rules[0](f"{concept_of(name)}/later.png") for name in names)
    assert rules[0]("unknown/0.png") == "train"


def test_light_and_dark_paper_are_told_apart_and_give_the_same_bits(tmp_path: Path):
    light = make(settings(draw(tmp_path / "light", CONCEPTS), paper="auto"), tmp_path / "1")
    dark = make(settings(draw(tmp_path / "dark", CONCEPTS, dark=True), paper="auto"), tmp_path / "2")
    assert light.looks is not None
    assert dark.looks is not None
    assert (light.looks.paper, dark.looks.paper) == ("light", "dark")
    assert light.looks.sides == (30, 30)
    assert light.looks.threshold is not None
    assert 60 < light.looks.threshold < 200  # between paper and ink
    one, two = (load_split(tmp_path / name / "shards", "train") for name in ("1", "2"))
    assert (one.images == two.images).float().mean() > 0.999  # JPEG is not the same inverted
    assert 0.15 < one.images.float().mean() < 0.45  # two strokes, not the paper
    assert "light paper (detected), ink above level" in light.appearance()
    assert "squares of 30 pixels made 12" in light.appearance()
    assert read_manifest(tmp_path / "1/shards").looks == light.looks
    chosen = make(settings(tmp_path / "dark", paper="dark", threshold=100), tmp_path / "3")
    assert chosen.appearance() == "dark paper, ink above level 100 of 255, squares of 30 pixels made 12"
    assert (
        make(settings(tmp_path / "dark", paper="dark", binarise="dynamic"), tmp_path / "4").looks is not None
    )


@pytest.mark.parametrize(("paper", "ink"), [(140, 225), (120, 30), (30, 120), (215, 140)])  # black is 0
def test_paper_is_found_beside_the_ink_however_dim_the_photograph(tmp_path: Path, paper: int, ink: int):
    folder = draw(tmp_path / "mine", CONCEPTS)
    for path in [*folder.rglob("*.png"), *folder.rglob("*.jpg")]:
        light = np.asarray(Image.open(path)) / 255  # 1 is paper
        Image.fromarray((ink + (paper - ink) * light).astype(np.uint8)).save(path)
    manifest = make(settings(folder, paper="auto"), tmp_path)
    assert manifest.looks is not None
    assert manifest.looks.paper == ("light" if paper > ink else "dark")
    assert 0.15 < load_split(tmp_path / "shards", "train").images.float().mean() < 0.45


def test_what_is_transparent_is_paper(tmp_path: Path):
    folder = draw(tmp_path / "mine", CONCEPTS)
    for path in folder.rglob("*.png"):
        black = np.zeros((30, 30, 4), np.uint8)
        black[..., 3] = 255 - np.asarray(Image.open(path))
        Image.fromarray(black).save(path)
    make(settings(folder, paper="auto"), tmp_path)
    assert 0.15 < load_split(tmp_path / "shards", "train").images.float().mean() < 0.45


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("paper", ["auto", "chosen"])
def test_no_ink_of_a_drawing_that_is_not_square_is_lost(tmp_path: Path, dark: bool, paper: str):
    folder = draw(tmp_path / "mine", CONCEPTS, dark=dark)
    for number, path in enumerate(
        sorted(folder.rglob("*.png"))
    ):  # a margin is cut off, up to the strokes' ends
        pixels = np.asarray(Image.open(path))
        Image.fromarray(pixels[4:26] if number % 2 else pixels[:, 4:26]).save(path)
    chosen = paper if paper == "auto" else ("dark" if dark else "light")
    manifest = make(settings(folder, size=30, paper=chosen, threshold=120), tmp_path)
    assert manifest.looks is not None
    assert manifest.looks.oblong == Oblong(images=26, widest=(22, 30), tallest=(30, 22))
    for split in ("train", "valid", "test"):
        found = load_split(tmp_path / "shards", split)
        for concept, name in enumerate(found.concept_names):
            images = found.images[found.concepts == concept]
            assert len(images) == 4  # every second of them a JPEG, whole
            for image, seed in zip(images, range(4), strict=True):
                expected = drawing(name, seed) < 128
                assert int((image > 0).sum()) == pytest.approx(expected.sum(), abs=0 if seed % 2 == 0 else 8)


def test_otsu_finds_the_middle_between_two_levels():
    assert otsu([np.array([0] * 90 + [255] * 10, np.uint8)]) == 127
    assert otsu([np.array([10] * 5, np.uint8), np.array([40] * 5, np.uint8)]) == 24
    assert otsu([np.full(4, 9, np.uint8)]) == 127
    random = np.random.default_rng(0)
    paper, ink = random.normal(20, 5, 9_000), random.normal(120, 5, 1_000)
    assert 50 < otsu([np.concatenate([paper, ink]).clip(0, 255).astype(np.uint8)]) < 100


def test_odd_pictures_are_all_named_in_one_list(tmp_path: Path):
    folder = draw(tmp_path / "mine", CONCEPTS)
    for name in ("Letters/l0/90.png", "Signs/s0/91.png"):
        Image.fromarray(255 - drawing("other", len(name))).save(folder / name)
    said = refused(settings(folder, paper="auto"), tmp_path)
    assert sorted(line.partition(":")[0] for line in said) == [
        f"{folder}/Letters/l0/90.png",
        f"{folder}/Signs/s0/91.png",
    ]
    assert all("on dark paper, most are on light" in line for line in said)
    Image.fromarray(np.full((30, 30), 235, np.uint8)).save(folder / "Signs/s0/91.png")
    said = sorted(refused(settings(folder, paper="auto"), tmp_path))  # two kinds, one list
    assert [line.partition(":")[0] for line in said] == [
        f"{folder}/Letters/l0/90.png",
        f"{folder}/Signs/s0/91.png",
    ]
    assert "on dark paper" in said[0]
    assert "blank at data.threshold=" in said[1]


def test_every_damaged_file_is_named_however_many_there_are(tmp_path: Path):
    folder = draw(tmp_path / "mine", CONCEPTS)
    bad = [folder / f"Letters/l1/bad{number:02d}.png" for number in range(30)]
    for path in bad:
        path.write_bytes(b"no picture")
    said = refused(settings(folder), tmp_path)
    assert [line.partition(":")[0] for line in said] == [str(path) for path in bad]
    assert all("not a whole image" in line for line in said)


def test_every_file_that_changed_since_it_was_listed_is_named(tmp_path: Path):
    folder = draw(tmp_path / "mine", CONCEPTS)
    data = settings(folder)
    list_it(data, tmp_path)
    (folder / "Letters/l0/00.png").write_bytes(b"other")
    (folder / "Signs/s0/02.png").unlink()
    with pytest.raises(BadInput) as caught:
        shard_set(data, tmp_path / "raw", tmp_path / "shards", processes=1)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{folder}/Letters/l0/00.png: changed since")
    assert second.startswith(f"{folder}/Signs/s0/02.png: cannot be read")


def test_files_in_no_concepts_place_are_all_named(tmp_path: Path):
    folder = draw(tmp_path / "mine", CONCEPTS)
    Image.fromarray(drawing("x", 0)).save(folder / "loose.png")
    draw(folder, ["Letters", "a/b/c"], count=1)
    said = refused(settings(folder), tmp_path)
    assert sorted(line.partition(":")[0] for line in said) == sorted(
        f"{folder}/{name}" for name in ("loose.png", "Letters/00.png", "a/b/c/00.png")
    )
    assert all("not <alphabet>/<concept>/<drawing>, as most are" in line for line in said)
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.fromarray(drawing("x", 0)).save(flat / "loose.png")
    (problem,) = refused(settings(flat), tmp_path / "2")
    assert "no file lies so; put each character's drawings into a folder of its own" in problem


def test_too_few_concepts_and_concepts_of_one_drawing_are_named(tmp_path: Path):
    few = draw(tmp_path / "few", CONCEPTS[:5])
    (problem,) = refused(settings(few), tmp_path / "1")
    assert "5 concepts; 6 are the least, 2 for each split" in problem
    folder = draw(tmp_path / "mine", CONCEPTS)
    draw(folder, ["Letters/m0", "Signs/t0"], count=1)
    shutil.copyfile(folder / "Signs/t0/00.png", folder / "Signs/t0/copy.png")
    said = refused(settings(folder), tmp_path / "2")
    assert sorted(line.partition(":")[0] for line in said) == [f"{folder}/Letters/m0", f"{folder}/Signs/t0"]
    assert all("one drawing (copies do not count)" in line for line in said)


def test_all_that_fetch_sees_is_one_list_and_what_shard_is_told_otherwise_is_one_too(tmp_path: Path):
    folder = draw(tmp_path / "mine", CONCEPTS[:4])
    draw(folder, ["Letters/m0"], count=1)
    Image.fromarray(drawing("x", 0)).save(folder / "loose.png")
    (folder / "Letters/l0/bad.png").write_bytes(b"no picture")
    (folder / "Letters/l1/a\nb.png").write_bytes(b"of a name that cannot be listed")
    data = settings(folder)
    with pytest.raises(BadInput) as caught:
        list_it(data, tmp_path)
    places = [
        f"{folder}/loose.png: not <alphabet>/<concept>/<drawing>, as most are; move or remove it",
        f"{folder}/Letters/m0: one drawing (copies do not count), and a pair needs two; add some",
        f"data.path={folder}: 5 concepts; 6 are the least, 2 for each split",
    ]
    said = str(caught.value).splitlines()
    assert len(said) == 5
    assert said[0].startswith(f"{folder}/Letters/l0/bad.png: not a whole image")
    assert "cannot be listed" in said[1]
    assert said[2:] == places
    for name in ("Letters/l0/bad.png", "Letters/l1/a\nb.png"):
        (folder / name).unlink()
    list_it(settings(folder, split="standard"), tmp_path)  # listed for another split
    with pytest.raises(BadInput) as caught:
        shard_set(data, tmp_path / "raw", tmp_path / "shards", processes=1)
    assert str(caught.value).splitlines() == places


def test_the_verb_fetch_names_what_lies_in_no_concepts_place(verb: Callable[..., Done], tmp_path: Path):
    folder = draw(tmp_path / "mine", CONCEPTS)
    asked = ("fetch", "--recipe", "own-characters", "--set", f"data.path={folder}")
    assert verb(*asked).returncode == 0
    Image.fromarray(drawing("x", 0)).save(folder / "loose.png")
    done = verb(*asked)
    assert done.returncode == 2
    assert f"{folder}/loose.png: not <alphabet>/<concept>/<drawing>, as most are" in done.stderr


def test_what_arrives_later_goes_to_training_with_the_looks_of_the_first(tmp_path: Path):
    folder = draw(tmp_path / "mine", CONCEPTS)
    data = settings(folder, paper="auto")
    first = make(data, tmp_path)
    held = first.splits["test"].concepts[0]
    known = first.splits["train"].concepts[0]
    draw(folder, ["Signs/new", known], count=2, start=10)
    draw(folder, [held], count=2, start=10)
    second = make(data, tmp_path)
    assert second.parent == first.digest
    assert second.looks == first.looks
    for split in ("valid", "test"):
        assert second.splits[split] == first.splits[split]
    assert second.splits["train"].concepts == (*first.splits["train"].concepts, "Signs/new")
    assert second.splits["train"].images == first.splits["train"].images + 4
    verify(tmp_path / "shards")
    draw(folder, [known], count=1, dark=True, start=20)
    with pytest.raises(BadInput, match=f"{folder}/{known}/20.png: on dark paper, most are on light"):
        make(data, tmp_path)
    (folder / known / "20.png").unlink()
    assert make(data, tmp_path) == second
    shard_set(data, tmp_path / "raw", tmp_path / "afresh", processes=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "afresh").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()
    }


def test_what_a_folder_does_not_choose_is_no_part_of_its_digest():
    kept = {"source": "folder", "size": 8, "split": "standard", "binarise": "grey", "seed": 0, "path": "x"}
    assert DataConfig(source="folder", path="x", size=8, binarise="grey").model_dump() == kept
    assert (
        DataConfig.model_validate(settings(Path("x"), paper="dark", threshold=9).model_dump()).threshold == 9
    )
