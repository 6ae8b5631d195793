"""Bound against seconds, and starts: what they measure, how parts join, that a change changes what it says."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import learning, page, starts
from benchmarks.learning import Clock, Digits, digits, measure, report, usual_start
from benchmarks.starts import CHANGES, DEFAULT, KINDS
from benchmarks.textbook import textbook
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from seqgen.data.images import ImageSet
from seqgen.models import build
from seqgen.settings import flatten
from seqgen.training import EachEpoch, fit
from tests.sets import write_digits, write_strokes

TINY = {"model.steps": 2, "model.latents": 3, "model.hidden": 12, "train.batch": 8}
RAN = [(kind, name) for kind in KINDS for name, change in CHANGES.items() if kind in change.kinds]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with both sections, and where results go, in a directory of the test's own."""
    (tmp_path / "docs").mkdir()
    sections = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("learning", "starts"))
    (tmp_path / "docs" / "performance.md").write_text(sections)
    monkeypatch.setattr(page, "PAGE", tmp_path / "docs" / "performance.md")
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    return tmp_path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_strokes(tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def bits() -> Digits:
    """Random bits: 24 training images of 28 x 28 with a fifth of their pixels inked."""
    drawn = (torch.rand(24, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.2).to(torch.uint8)
    unknown = torch.full((24,), -1)
    images = ImageSet(drawn, 2, unknown, unknown, ())
    return Digits(images, images, 0.2, "random bits")


def epochs_at_will(monkeypatch: pytest.MonkeyPatch, images: Digits, seconds: float, epochs: int) -> None:
    """Have the runs believe that steps take a fiftieth of a second or two, and so many epochs so many seconds."""
    ticks = itertools.count()
    ticking = SimpleNamespace(perf_counter=lambda: next(ticks) / 50, process_time=lambda: next(ticks) / 50)
    monkeypatch.setattr(learning, "time", ticking)
    rate = len(images.train) // TINY["train.batch"] * TINY["train.batch"] * (epochs + 0.5) / seconds
    monkeypatch.setattr(learning, "_images_per_second", lambda *_: rate)


def test_both_runs_join_in_one_result_one_table_and_one_picture(
    results: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(learning, "_EVERY", 0.0)
    images = digits(shards)
    epochs_at_will(monkeypatch, images, 0.3, 3)
    stored = {}
    for name in ("textbook", "seqgen", "textbook"):
        report(name, measure(name, images, 0.3, 1000, TINY))
        before, stored = stored, json.loads((results / "results" / "learning.json").read_text())["runs"]
        assert {other: run for other, run in before.items() if other != name}.items() <= stored.items()
    for run in stored.values():
        points = run["points"]
        assert len(points) > 2
        for key in ("wall", "cpu", "step"):
            assert [p[key] for p in points] == sorted(p[key] for p in points)
        # The last point measures the weights that came out, over the whole (small) set.
        assert points[-1]["bound"] == pytest.approx(run["final"]["mean"], rel=1e-6)
        assert run["final"]["images"] == run["images"] == len(images.test)
    assert stored["seqgen"]["points"][-1]["step"] % (len(images.train) // TINY["train.batch"]) == 0
    text = (results / "docs" / "performance.md").read_text()
    assert "| textbook |" in text
    assert "| seqgen |" in text
    assert (results / "docs" / "images" / "learning.png").read_bytes().startswith(b"\x89PNG")


def test_training_lowers_the_bound(shards: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learning, "_EVERY", 0.0)
    epochs_at_will(monkeypatch, digits(shards), 1.0, 20)
    for name in learning.RUNS:
        points = measure(name, digits(shards), 1.0, 1000, {**TINY, "train.learning_rate": 0.01})["points"]
        assert points[-1]["bound"] < points[0]["bound"]


def test_what_a_pause_holds_takes_no_time(monkeypatch: pytest.MonkeyPatch):
    now = {"wall": 5.0, "cpu": 2.0}
    ticking = SimpleNamespace(perf_counter=lambda: now["wall"], process_time=lambda: now["cpu"])
    monkeypatch.setattr(learning, "time", ticking)
    clock = Clock()
    now.update(wall=8.0, cpu=6.0)
    with clock.paused():
        now.update(wall=100.0, cpu=50.0)
    now.update(wall=101.0, cpu=52.0)
    assert clock.seconds() == (4.0, 6.0)


def test_the_textbook_starts_as_public_code_does():
    recipe = load_recipe(learning.RECIPE, [f"{k}={v}" for k, v in {**learning.TEXTBOOK, **TINY}.items()])
    model = build(recipe.model, 28, 28, 0.1)
    plain = textbook(model)
    bias = plain.read_head.bias.detach().clone()
    assert plain.start["canvas0"].any()
    usual_start(plain)
    assert not torch.equal(plain.read_head.bias, bias)
    assert plain.read_head.bias.abs().max() <= 12**-0.5
    assert all(not start.any() and not start.requires_grad for start in plain.start.values())
    assert plain.decoder.bias_ih.abs().max() <= 12**-0.5  # no forget bias


def test_without_shards_it_says_how_to_make_them(tmp_path: Path):
    with pytest.raises(BadInput, match=r"pipelines\.shard --recipe draw-mnist.*--data"):
        digits(tmp_path)
    write_digits(tmp_path / "grey")
    with pytest.raises(BadInput, match="is grey"):
        digits(tmp_path / "grey")


TOUCHED = {  # the parameters that a change of the weights may touch, by the first word of its name
    "windows": "window",
    "sigma": "window",
    "writer": "writer.",
    "output": ("canvas0", "observation.conv.bias"),
    "observation": "observation.conv.weight",
    "cgru": "canvas.",
    "posterior": "posterior.head",
    "forget": "linear.bias",
    "latents": "transition.cell.linear.weight",
    "loud": ("transition.cell.linear.weight", "writer.sprite"),
}


@pytest.mark.parametrize(("kind", "name"), RAN)
def test_a_change_changes_what_it_says_and_nothing_else(kind: str, name: str, bits: Digits):
    change = CHANGES[name]
    plain, recipe = (starts.recipe_of(kind, c) for c in (CHANGES[DEFAULT], change))
    before, after = flatten(plain.model_dump()), flatten(recipe.model_dump())
    assert {key for key in before if before[key] != after[key]} == set(change.settings)
    unaltered = dataclasses.replace(change, alter=CHANGES[DEFAULT].alter)
    first, second = (starts.fresh(recipe, c, bits, 0).state_dict() for c in (unaltered, change))
    altered = [key for key in first if not torch.equal(first[key], second[key])]
    if change.alter is CHANGES[DEFAULT].alter:
        assert not altered
        assert bool(change.settings) + (change.beta2 != CHANGES[DEFAULT].beta2) == (name != DEFAULT)
    else:
        fragments = TOUCHED[name.split("-")[0]]
        fragments = (fragments,) if isinstance(fragments, str) else fragments
        assert altered
        assert all(any(fragment in key for fragment in fragments) for key in altered)


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_are_those_of_fit(kind: str, bits: Digits):
    recipe = starts.recipe_of(
        kind,
        dataclasses.replace(
            CHANGES["kl-warmup-300"],
            settings={"train.kl_warmup_steps": 2, "train.clip": 1.0, "train.warmup_steps": 2, **TINY},
        ),
    )
    history = starts.free_energies(recipe, CHANGES[DEFAULT], bits, 3, 3)
    seen = []
    config = recipe.train.model_copy(update={"epochs": 1, "seed": 3})
    model = starts.fresh(recipe, CHANGES[DEFAULT], bits, 3)
    fit(
        model,
        bits.train,
        None,
        recipe.data,
        config,
        callbacks=[EachEpoch(lambda done, save: seen.append(done.metrics))],
    )
    assert statistics.fmean(history) == pytest.approx(seen[0]["train/free_energy"], rel=1e-5)


def test_when_the_plateau_is_left():
    history = [200.0] * 30 + [170.0] * 30
    # 14 of the last 20 at 170: the first mean below 180.
    assert starts.outcome(history, 60) == {"left": 44, "free_energy": 182.0}
    assert starts.outcome([200.0] * 60, 60) == {"left": None, "free_energy": 200.0}
    assert starts.outcome(history, 61)["free_energy"] is None


def test_starts_can_be_made_in_parts(results: Path, shards: Path, monkeypatch: pytest.MonkeyPatch):
    name, settings = KINDS["gaussian"]
    monkeypatch.setitem(starts.KINDS, "gaussian", (name, {**settings, **TINY}))
    common = ["--kind", "gaussian", "--data", str(shards), "--steps"]
    starts.main([*common, "3", "--seeds", "0", "1", "--only", DEFAULT])
    starts.main([*common, "3", "--seeds", "1", "2", "--only", DEFAULT, "clip-1", "cgru-torch"])
    runs = json.loads((results / "results" / "starts.json").read_text())["runs"]
    made = [(run["change"], run["seed"]) for run in runs]
    assert sorted(made) == [(DEFAULT, 0), (DEFAULT, 1), (DEFAULT, 2), ("clip-1", 1), ("clip-1", 2)]
    text = (results / "docs" / "performance.md").read_text()
    assert text.count("| > 3; ") == 2
    with pytest.raises(BadInput, match="3 steps, not --steps 4"):
        starts.main([*common, "4", "--only", DEFAULT])
