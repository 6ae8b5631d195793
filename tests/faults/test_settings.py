"""Bad settings, files, names, paths and surroundings: refused by key or file with exit code 2, or of no effect."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.damage import damage
from data_prep.shard_set import shard_set
from pipelines.artifacts.places import places, state_root
from pipelines.cli.main import main
from pipelines.recipes import load_recipe
from pipelines.storage import open_store
from seqgen import training
from seqgen.api import Model
from seqgen.core.errors import BadInput
from seqgen.core.machine import Resources
from seqgen.data.manifest import read_manifest
from seqgen.models import build
from seqgen.training.resources import device_for
from tests.finished_run import tiny_recipe
from tests.raw_files import Make
from tests.sets import write_digits

ROOT = Path(__file__).parents[2]
PLAIN = (ROOT / "pipelines/recipes/quickstart.yaml").read_text()


def refused(*assignments: str) -> str:
    """What is said of settings over the quickstart's."""
    with pytest.raises(BadInput) as caught:
        load_recipe("quickstart", assignments)
    return str(caught.value)


def ended(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    """How `seqgen` ends: its exit code, and what it said of an error."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return stop.value.code, capsys.readouterr().err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("SEQGEN_ARTIFACTS", "SEQGEN_STATE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


# Values


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("model.steps=0", "model.steps=0"),
        ("model.steps=-1", "model.steps=-1"),
        ("model.steps=1000000", "model.steps=1000000: Input should be less than or equal to 1000"),
        ("model.steps=true", "model.steps=True"),
        ("model.steps=1e1", "model.steps=10.0"),
        ("model.hiden=3", "did you mean hidden?"),
        ("modle.steps=3", "did you mean model?"),
        ("model.attention=banana", "spatial-transformer"),
        ("train.learning_rate=-1", "train.learning_rate=-1"),
        ("train.learning_rate=0", "train.learning_rate=0"),
        ("train.learning_rate=.nan", "train.learning_rate=nan: Input should be a finite number"),
        ("train.learning_rate=.inf", "train.learning_rate=inf: Input should be a finite number"),
        ("train.learning_rate=true", "train.learning_rate=True"),
        ("train.learning_rate='1e-3'", "train.learning_rate='1e-3'"),
        ("train.seed=-1", "train.seed=-1: Input should be greater than or equal to 0"),
        ("train.seed=4294967296", "train.seed=4294967296: Input should be less than 4294967296"),
        ("train.seed=99999999999999999999999", "train.seed=99999999999999999999999"),
        ("train.seed=true", "train.seed=True"),
        ("data.seed=-1", "data.seed=-1"),
        ("search.seed=-1", "search.seed=-1"),
        ("search.seed=4294967296", "search.seed=4294967296"),
        ("evaluate.seed=-1", "evaluate.seed=-1"),
        ("search.minutes=.nan", "search.minutes=nan"),
        ("train.epochs=true", "train.epochs=True"),
        ("train.epochs=2.5", "train.epochs=2.5"),
        ("train.batch=63", "train.batch=63 is not divisible by train.workers=2"),
        ("model.read_size=40", "model.read_size=40 exceeds data.size=28"),
        ("data.split=weak", "mnist-5k has only standard"),
        ("data.binarise=static", "binarise=static"),
        ("data.rule=nearest", "rule=nearest: only Omniglot's drawings are made smaller"),
        ("data.digits=[0, 1]", "digits, overlap: mnist-5k has one digit an image"),
        ("data.overlap=false", "digits, overlap: mnist-5k has one digit an image"),
        ("train.contexts=[0, 1]", "train.contexts=(0, 1): only for model.conditional=true"),
        ("train.new_classes=0.5", "train.new_classes=0.5: only for model.conditional=true"),
        ("train.contexts=[-1]", "train.contexts"),
        ("train.contexts=[]", "train.contexts"),
        ("train.pairs=alphabet", "mnist-5k has no alphabets"),
        ("model.infer_from_context=true", "only for conditional=true"),
        ("train.objective=score-function", "there is nothing for its baseline to do"),
        ("train.epochs", "section.key=value"),
        ("train.epochs=[", "not plain YAML"),
        ("model.steps=2020-01-01", "model.steps='2020-01-01'"),
        ("model.steps=!!timestamp 2020-01-01", "not plain YAML"),
        ("model.steps=0x_", "not plain YAML"),
        ("recipe.x.y=1", "unknown key recipe"),
    ],
)
def test_bad_settings_are_named_with_their_value(assignment: str, expected: str):
    assert expected in refused(assignment)


def test_a_learning_rate_in_powers_of_ten_is_a_number():
    """PyYAML, which reads YAML 1.1, takes 1e-3 for a text."""
    assert load_recipe("quickstart", ["train.learning_rate=1e-3"]).train.learning_rate == 0.001


def test_one_step_is_enough(place: Path):
    recipe = load_recipe(str(tiny_recipe(place)), ["model.steps=1", "train.workers=1"])
    write_digits(places(recipe).shards, {"train": 16, "valid": 4, "test": 4})
    assert training.run(recipe, places(recipe).shards).config.steps == 1


def test_more_steps_than_the_memory_holds_are_refused_with_the_numbers():
    recipe = load_recipe("sgm-omniglot-30-20", ["model.steps=1000", "train.batch=4096", "train.workers=1"])
    with pytest.raises(
        BadInput, match=r"model\.steps=1000 with train\.batch=4096 needs about \d+ GiB and .* 8 GiB"
    ):
        device_for(recipe, Resources(1, 0, 2**33))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "1"])
def test_a_seed_of_a_call_is_checked_like_one_of_a_recipe(seed: object):
    recipe = load_recipe("quickstart")
    model = Model(build(recipe.model, 28, 28))
    for draw in (lambda: model.sample(1, seed=seed), lambda: model.trace(seed=seed)):  # type: ignore[arg-type]
        with pytest.raises(BadInput, match=r"seed=.*: a whole number from 0 to 4294967295"):
            draw()


# Files


BOMB = "a: &a [x, x]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, this in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "a recipe is a mapping of sections"),
        (b"- 1", "a recipe is a mapping of sections"),
        (b"model: 3", "model"),
        (PLAIN.encode("utf-16"), "cannot be read as UTF-8 text"),
        (PLAIN.replace("\n  ", "\n\t", 1).encode(), "not plain YAML"),
        (f"{PLAIN}\nname: again\nname: twice\n".encode(), "key 'name' stands twice"),
        (
            f"{PLAIN}\nx: !!python/object/apply:os.mkdir [made]\n".encode(),
            "tags, anchors and aliases are not allowed",
        ),
        (f"{PLAIN}\nx: !!python/name:os.mkdir\n".encode(), "not plain YAML"),
        (f"{PLAIN}\n{BOMB}".encode(), "tags, anchors and aliases are not allowed"),
        (b"x: " + b"y" * 10_000_000, "10000003 bytes; a settings file has at most 1000000"),
        (b"a: \0", "not plain YAML"),
        (b"[" * 100_000, "not plain YAML"),
    ],
)
def test_a_bad_recipe_file_ends_with_2_and_is_named(
    place: Path, content: bytes, problem: str, capsys: pytest.CaptureFixture[str]
):
    (place / "mine.yaml").write_bytes(content)
    code, said = ended(["show", "mine.yaml"], capsys)
    assert code == 2
    assert said.startswith("error: mine.yaml: ")
    assert problem in said
    assert len(said) < 2000
    assert not (place / "made").exists()


def test_a_byte_order_mark_changes_nothing(place: Path):
    (place / "plain.yaml").write_text(f"name: same\n{PLAIN}")
    (place / "marked.yaml").write_bytes(b"\xef\xbb\xbf" + f"name: same\n{PLAIN}".encode())
    assert load_recipe("marked.yaml") == load_recipe("plain.yaml")


# Names and paths


@pytest.mark.parametrize("name", ["a/b", "..", ".", "../x", "-x", "", "a b", r"a\0", r"a\n", "x" * 300, "ä"])
def test_a_name_that_is_no_name_of_a_directory_is_refused(name: str):
    for key in ("name", "register.name"):
        assert f"{key}=" in refused(f'{key}="{name}"')


@pytest.mark.parametrize("name", ["a/b", "..", "../x", "-x", "", "a b", "a\0", "a\n", "x" * 300, "ä"])
def test_a_name_of_a_run_that_is_none_ends_with_2(place: Path, name: str, capsys: pytest.CaptureFixture[str]):
    code, said = ended(["train", "--recipe", "quickstart", f"--name={name}"], capsys)
    assert code == 2
    assert f"--name {name!r}: use up to 100 letters, digits, dots, dashes and underscores" in said
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    "name", ["quikstart", "../quickstart", "x" * 300, "x" * 300 + ".yaml", "a\0.yaml", "-x.yaml"]
)
def test_a_recipe_that_is_not_there_ends_with_2_and_the_nearest(
    place: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    code, said = ended(["show", "--", name], capsys)
    assert code == 2
    assert f"recipe {name!r} is not known" in said
    assert ("did you mean quickstart?" in said) == ("start" in name)


def test_a_directory_or_a_link_to_itself_is_no_recipe(place: Path, capsys: pytest.CaptureFixture[str]):
    (place / "directory.yaml").mkdir()
    (place / "loop.yaml").symlink_to("loop.yaml")
    (place / "params.yaml").mkdir()
    for name in ("directory.yaml", "loop.yaml"):
        code, said = ended(["show", name], capsys)
        assert code == 2
        assert f"recipe '{name}' is not known" in said
    code, said = ended(["verify"], capsys)
    assert code == 2
    assert "name a recipe with --recipe" in said


@pytest.mark.parametrize("variable", ["SEQGEN_ARTIFACTS", "SEQGEN_STATE"])
def test_a_place_that_is_no_directory_is_refused_by_its_variable(
    place: Path, variable: str, monkeypatch: pytest.MonkeyPatch
):
    (place / "loop").symlink_to("loop")
    (place / "file").touch()
    find = {"SEQGEN_ARTIFACTS": lambda: places(load_recipe("quickstart")), "SEQGEN_STATE": state_root}[
        variable
    ]
    for named in ("loop", "loop/below", "file", "file/below", "x" * 300):
        monkeypatch.setenv(variable, named)
        with pytest.raises(BadInput, match=rf"{variable}={named}: .*; set {variable} to a directory"):
            find()
    for named in ("new", "new/below", ""):
        monkeypatch.setenv(variable, named)
        find()
    assert not (place / "new").exists()


def test_a_storage_that_is_no_directory_is_refused_by_its_address(place: Path):
    (place / "loop").symlink_to("loop")
    (place / "file").touch()
    for named in ("loop", "loop/below", "file", "file/below", "x" * 300):
        with pytest.raises(BadInput, match=f"{place}/{named}"):
            open_store(f"{place}/{named}").preflight(creates=False)
    assert sorted(path.name for path in place.iterdir()) == ["file", "loop"]


def test_a_directory_in_the_place_of_a_file_is_named(place: Path, capsys: pytest.CaptureFixture[str]):
    write_digits(place / "set")
    shard = read_manifest(place / "set").splits["train"].shards[0]
    (place / "set" / shard.name).unlink()
    (place / "set" / shard.name).mkdir()
    assert "train-000000.tar: cannot be read: Is a directory" in damage(place / "set", [shard])[shard.name]
    (place / "set/manifest.json").unlink()
    (place / "set/manifest.json").mkdir()
    code, said = ended(["verify", "--directory", "set"], capsys)
    assert code == 2
    assert "set/manifest.json: no manifest" in said


def test_whatever_stands_in_the_place_of_a_set_makes_room_for_it(place: Path):
    make, target = Make(), place / "out/shards"
    raw = make.strokes(place / "raw")
    first = shard_set(make.data, raw, target, processes=1)
    elsewhere = place / "elsewhere"
    shutil.copytree(target, elsewhere)
    for put in (
        target.touch,
        lambda: target.symlink_to("shards"),
        lambda: target.symlink_to("nowhere"),
        lambda: target.symlink_to(elsewhere),
        lambda: None,
    ):
        if target.is_dir():
            shutil.rmtree(target)
        put()
        for _ in range(2):
            assert shard_set(make.data, raw, target, processes=1) == first
            assert [path.name for path in target.parent.iterdir()] == ["shards"]
    assert read_manifest(elsewhere) == first, "what a link leads to is not touched"


# Surroundings


def shown(**surroundings: str | None) -> bytes:
    """What `seqgen show` prints, without a terminal, with these variables set, or unset where None."""
    changed = {**os.environ, "PYTHONPATH": str(ROOT)} | {
        k: v for k, v in surroundings.items() if v is not None
    }
    environment = {key: value for key, value in changed.items() if surroundings.get(key, "") is not None}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.show", "mine.yaml"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_locale_zone_hash_seed_terminal_and_home_change_nothing(place: Path):
    described = PLAIN.replace("description:", "description: Ä, 文字.", 1)
    (place / "mine.yaml").write_text(described, encoding="utf-8")
    first = shown(PYTHONHASHSEED="1", LC_ALL="C.UTF-8", TZ="UTC", TERM="xterm")
    assert "Ä, 文字." in first.decode()
    for surroundings in (
        {"PYTHONHASHSEED": "2", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "TERM": "dumb"},
        {"PYTHONHASHSEED": "random", "LC_ALL": "tr_TR.UTF-8", "TZ": "nowhere/at_all", "TERM": None},
        {"HOME": None, "USER": None, "LOGNAME": None, "COLUMNS": "1"},
        {"HOME": str(place / "nowhere"), "LC_ALL": "no_such_LOCALE"},
    ):
        assert shown(**surroundings) == first


def test_a_user_without_a_name_and_a_home_prepares_data(place: Path):
    """As in a container that runs under any number."""
    nobody = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if shutil.which("unshare") is None or subprocess.run([*nobody, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    environment = {key: value for key, value in os.environ.items() if key != "HOME"} | {
        "PYTHONPATH": str(ROOT)
    }
    for verb in ("fetch", "shard", "verify"):
        done = subprocess.run(
            [*nobody, sys.executable, "-m", f"pipelines.{verb}", "--recipe", "quickstart"],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["SEQGEN_HANG_SECONDS", "SEQGEN_GRACE_SECONDS", "SEQGEN_UPLOAD_SECONDS"])
def test_a_time_that_is_no_number_ends_a_training_before_anything_starts(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tiny_recipe(place)
    write_digits(place / "artifacts/tiny/shards")
    monkeypatch.setenv(name, "soon")
    code, said = ended(["train", "--recipe", "tiny.yaml"], capsys)
    assert (code, f"error: {name}=soon: give a number of seconds" in said) == (2, True)
    assert {path.name for path in place.iterdir()} == {"artifacts", "tiny.yaml"}
