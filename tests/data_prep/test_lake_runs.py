"""Lake's classification runs: a small archive of his layout, refusals, fetching alone, and the real file."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.archive import CheckedZip
from data_prep.fetch import fetch_file
from data_prep.lake_runs import LakeRun, read_runs
from data_prep.omniglot import characters, content_digest, decode_drawing
from data_prep.sources import LAKE_RUNS, RAW_FILES, RawFile
from seqgen.core.errors import BadInput

WAYS = range(20)


def answer(run: int, item: int) -> int:
    """The training drawing of a test drawing, both 0-based; another permutation in each run."""
    return (7 * item + run) % 20


def members(make, runs: int = 20) -> dict[str, bytes]:
    """Runs whose drawings are all different: a test drawing's seed is its training drawing's plus 1000."""
    found: dict[str, bytes] = {}
    for run in range(runs):
        folder, lines = f"run{run + 1:02d}", []
        for item in WAYS:
            character = answer(run, item)
            found[f"{folder}/training/class{item + 1:02d}.png"] = make.png(20 * run + item)
            found[f"{folder}/test/item{item + 1:02d}.png"] = make.png(1000 + 20 * run + character)
            lines.append(
                f"{folder}/test/item{item + 1:02d}.png {folder}/training/class{character + 1:02d}.png\n"
            )
        found[f"{folder}/class_labels.txt"] = "".join(lines).encode()
    return found


@pytest.fixture(scope="module")
def small(make) -> dict[str, bytes]:
    return members(make)


def test_the_runs_are_those_that_were_written(make, small, tmp_path):
    path = make.zip(tmp_path / "all_runs.zip", {"__MACOSX/run01/._x": b"", **dict(reversed(small.items()))})
    runs = read_runs(path)
    assert [run.name for run in runs] == [f"run{number:02d}" for number in range(1, 21)]
    for number, run in enumerate(runs):
        assert run.test.shape == run.training.shape == (20, 105, 105)
        assert run.answers.tolist() == [answer(number, item) for item in WAYS]
        for item in (0, 13):
            drawn = decode_drawing(make.png(1000 + 20 * number + answer(number, item)), "")
            assert (run.test[item] == drawn).all()
            assert (run.training[item] == decode_drawing(make.png(20 * number + item), "")).all()


def relabelled(small: dict[str, bytes], old: str, new: str) -> dict[str, bytes]:
    labels = small["run03/class_labels.txt"].decode()
    assert old in labels
    return {**small, "run03/class_labels.txt": labels.replace(old, new).encode()}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s, make: {n: c for n, c in s.items() if not n.startswith("run07/")}, "19 runs, not 20"),
        (
            lambda s, make: {n: c for n, c in s.items() if n != "run07/test/item05.png"},
            "run07: 19 test and 20",
        ),
        (
            lambda s, make: {n: c for n, c in s.items() if n != "run07/class_labels.txt"},
            "run07: no class_labels",
        ),
        (lambda s, make: {**s, "run07/more.txt": b""}, "'run07/more.txt' is not of Lake's runs"),
        (lambda s, make: {**s, "run07/test/item05.png": make.png(1, (28, 28))}, "run07/test/item05.png': 1 "),
        (lambda s, make: relabelled(s, "item05", "item06"), "not one line for each test drawing"),
        (lambda s, make: relabelled(s, "item05.png ", "item05.png"), "not one line for each test drawing"),
        (lambda s, make: relabelled(s, "class05", "class06"), "not each training drawing once"),
    ],
)
def test_what_is_not_lakes_layout_is_refused_by_name(make, small, tmp_path, change, problem):
    path = make.zip(tmp_path / "all_runs.zip", change(small, make))
    with pytest.raises(BadInput, match=problem) as caught:
        read_runs(path)
    assert str(path) in str(caught.value)


def test_the_runs_are_fetched_alone_and_are_no_part_of_the_set(make, tmp_path):
    assert LAKE_RUNS not in RAW_FILES["omniglot"]
    mirror = tmp_path / "mirror"
    official = make.zip(mirror / "omniglot/all_runs.zip", {"run01/test/item01.png": make.png()})
    file = RawFile("omniglot", "all_runs.zip", (), ("0" * 64,), content_digest(official))
    said: list[str] = []
    path = fetch_file(file, tmp_path / "raw", str(mirror), notice=said.append)
    assert path == tmp_path / "raw/omniglot/all_runs.zip"
    assert path.read_bytes() == official.read_bytes()
    assert len(said) == 1
    assert fetch_file(file, tmp_path / "raw", str(tmp_path / "gone"), notice=said.append) == path
    assert len(said) == 1  # it is here: nobody is asked

    path.write_bytes(b"changed")
    fetch_file(file, tmp_path / "raw", str(mirror), notice=said.append)
    assert path.read_bytes() == official.read_bytes()
    make.zip(official, {"run01/test/item01.png": make.png(1)})
    with pytest.raises(BadInput, match="expected content"):
        fetch_file(file, tmp_path / "raw2", str(mirror), notice=said.append)


@pytest.fixture(scope="module")
def real(real_data, tmp_path_factory) -> list[LakeRun]:
    if not (real_data / LAKE_RUNS.path).is_file():
        pytest.skip("Lake's runs are not here")
    raw = tmp_path_factory.mktemp("raw")
    return read_runs(fetch_file(LAKE_RUNS, raw, str(real_data), notice=lambda text: None))


def test_the_real_archive_is_pinned_both_ways(real_data, real):
    path = real_data / LAKE_RUNS.path
    assert path.stat().st_size == 352_787
    assert LAKE_RUNS.mismatch(path) is None
    assert content_digest(path) == LAKE_RUNS.content


def test_a_real_answer_is_another_drawing_of_the_same_evaluation_character(real_data, real):
    origin = {}
    with CheckedZip(real_data / "omniglot/images_evaluation.zip") as archive:
        for character in characters(archive):
            for drawer, name in enumerate(character.members, 1):
                drawing = decode_drawing(archive.read(name), name).tobytes()
                origin[drawing] = character.alphabet, character.name, drawer
    alphabets = []
    for run in real:
        tests = [origin[drawing.tobytes()] for drawing in run.test]
        answers = [origin[run.training[place].tobytes()] for place in run.answers]
        assert [test[:2] for test in tests] == [character[:2] for character in answers]
        assert len({test[:2] for test in tests}) == 20
        (tester,), (trainer,) = ({drawn[2] for drawn in part} for part in (tests, answers))
        assert tester != trainer
        (alphabet,) = {test[0] for test in tests}
        alphabets.append(alphabet)
    assert alphabets[::2] == alphabets[1::2]  # two runs of each of ten alphabets, one after the other
    assert len(set(alphabets)) == 10


@pytest.mark.slow
def test_the_modified_hausdorff_distance_has_the_error_rate_of_lakes_demo(real):
    """38.8 % of 400 (brendenlake/omniglot, python/one-shot-classification/demo_classification.py)."""

    def ink(drawing: np.ndarray) -> np.ndarray:
        points = np.argwhere(drawing).astype(np.float32)
        return points - points.mean(0)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        between = np.square(a).sum(1)[:, None] - 2 * a @ b.T + np.square(b).sum(1)
        nearest = (np.sqrt(np.maximum(between.min(axis), 0)).mean() for axis in (0, 1))
        return max(nearest)

    wrong = 0
    for run in real:
        candidates = [ink(drawing) for drawing in run.training]
        for drawing, character in zip(run.test, run.answers, strict=True):
            points = ink(drawing)
            wrong += np.argmin([distance(points, candidate) for candidate in candidates]) != character
    assert wrong == 155
