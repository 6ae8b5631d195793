"""Faults of whole sets: cut short while they are made, too small, hostile, with a leak."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from webdataset import WebDataset

from data_prep.shard_set import shard_set
from data_prep.strict_tar import read_strictly
from data_prep.verify import verify
from pipelines.artifacts.places import places
from pipelines.artifacts.shards import checked_manifest
from pipelines.recipes import load_recipe
from seqgen import training
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import canonical_digest
from seqgen.data.images import load_split
from seqgen.data.manifest import Shard, read_manifest
from seqgen.data.shards import read_shard
from tests.finished_run import tiny_recipe
from tests.samples import some_sample, write_tar
from tests.sets import digests, training_steps, write_digits, write_strokes
from tests.verb_process import verb

ROOT = Path(__file__).parents[2]

# 34: cut short half-way, and repeated elsewhere


_SCRIPT = """
import os, sys
os.umask(int(sys.argv[3], 8))
from pathlib import Path
from seqgen.data.settings import DataConfig
from data_prep.shard_files import encode_sample, write_shard
from data_prep.shard_set import shard_set
from data_prep.verify import verify
data = DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static")
if __name__ == "__main__":
    shard_set(data, Path(sys.argv[1]), Path(sys.argv[2]), processes=int(sys.argv[4]))
    verify(Path(sys.argv[2]))
"""


def test_34_the_bytes_do_not_depend_on_locale_zone_umask_hash_seed_or_processes(
    small_raw, small_set, tmp_path
):
    environments = [
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "1"}, "077", 1),
        ({"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}, "000", 2),
        ({"LC_ALL": "C.UTF-8", "TZ": "America/St_Johns", "PYTHONHASHSEED": "3"}, "027", 3),
    ]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(small_raw), str(tmp_path / f"{n}"), umask, str(processes)],
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        for n, (environment, umask, processes) in enumerate(environments)
    ]
    assert [run.wait(120) for run in runs] == [0, 0, 0]
    for n in range(len(runs)):
        assert digests(tmp_path / f"{n}") == digests(small_set)
    assert not list(tmp_path.glob(".*"))


_KILLED = """
import os, signal, sys
from pathlib import Path
from data_prep import shard_set as module
from seqgen.data.settings import DataConfig
data = DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static")
write, written = module.write_shard, []
def write_then_die(path, samples):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    return write(path, samples)
module.write_shard = write_then_die
module.shard_set(data, Path(sys.argv[1]), Path(sys.argv[2]), processes=1)
"""


@pytest.mark.parametrize("before", ["absent", "another set"])
def test_34_killed_half_way_nothing_has_its_final_name_and_a_rerun_is_the_same(
    make, small_raw, small_set, tmp_path, before
):
    target = tmp_path / "out" / "shards"
    if before == "another set":
        shutil.copytree(small_set, target)
        (target / "manifest.json").write_text("{}")
    was = digests(target) if target.exists() else None
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(small_raw), str(target)], cwd=ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert (digests(target) if target.exists() else None) == was
    assert [path.name for path in target.parent.iterdir() if path != target] == [".shards.building"]
    shard_set(make.data, small_raw, target, processes=1)
    assert digests(target) == digests(small_set)
    assert [path.name for path in target.parent.iterdir()] == ["shards"]


# 35: sets that are too small for what is asked


def test_35_how_a_set_is_cut_into_shards_changes_nothing_whatever_the_ranks(recipe, tmp_path):
    write_digits(tmp_path / "one")
    write_digits(tmp_path / "many", shards=6)
    assert [shard.images for shard in read_manifest(tmp_path / "many").splits["train"].shards] == [16] * 4 + [
        0
    ] * 2
    verify(tmp_path / "many")
    [alone] = training_steps(tmp_path / "one", recipe, 1)
    ranks = training_steps(tmp_path / "one", recipe, 16)
    assert {len(steps) for steps in ranks} == {4}, "one shard, sixteen ranks"
    for step, batch in enumerate(alone):
        assert torch.cat([rank[step] for rank in ranks]).equal(batch)
    for one, many in zip(ranks, training_steps(tmp_path / "many", recipe, 16), strict=True):
        assert all(a.equal(b) for a, b in zip(one, many, strict=True)), "empty shards among them"


def test_35_one_sample_is_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(str(tiny_recipe(tmp_path)), ["train.batch=1", "train.workers=1"])
    shards = places(recipe).shards
    write_digits(shards, {"train": 1, "valid": 1, "test": 1})
    checked_manifest(recipe)
    rows: list[dict[str, float]] = []
    training.run(
        recipe, shards, callbacks=[training.EachEpoch(lambda progress, save: rows.append(progress.metrics))]
    )
    assert np.isfinite(rows[-1]["valid/dynamic/free_energy"])


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ({"train": 8, "valid": 8, "test": 8}, "train.batch=16 exceeds the 8 training images"),
        ({"train": 0, "valid": 8, "test": 8}, "train.batch=16 exceeds the 0 training images"),
        ({"train": 16, "valid": 0, "test": 8}, "no images in valid"),
    ],
)
def test_35_a_set_smaller_than_a_batch_or_empty_ends_with_2_before_ray_starts(
    recipe, tmp_path, counts, problem
):
    write_digits(places(recipe).shards, counts)
    done = verb(tmp_path, "train", "--recipe", "tiny.yaml")
    assert done.returncode == 2
    assert problem in done.stderr
    assert not (tmp_path / ".seqgen").exists()


# 36: shards that would run or fetch something


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return Path.touch, (self.made,)


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_36_a_pickle_in_a_shard_is_refused_and_not_run(tmp_path, suffix):
    made = tmp_path / "made"
    path = tmp_path / "train-000000.tar"
    sample = some_sample(0)
    members = [(f"{sample.key}.png", sample.png), (f"{sample.key}.json", sample.json)]
    write_tar(path, [*members, (f"{sample.key}.{suffix}", pickle.dumps(Evil(made)))])
    content = path.read_bytes()
    sealed = Shard(
        name=path.name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), samples=1, images=3
    )
    with pytest.raises(OperationalError, match=f"{sample.key}: its members are .*{suffix}"):
        list(read_shard(tmp_path, sealed))
    with pytest.raises(OperationalError, match=rf"{sample.key}\.{suffix}"):
        list(read_strictly(path))
    assert not made.exists()
    if suffix == "pkl":
        list(WebDataset(str(path), shardshuffle=False).decode())
        assert made.exists(), "what stock webdataset does with it"


@pytest.mark.parametrize(
    "address",
    [
        "pipe:touch made; cat",
        "http://127.0.0.1:9/train-000000.tar",
        "../train-000000.tar",
        "/x-000000.tar",
        "a\0.tar",
    ],
)
def test_36_an_address_in_the_list_of_shards_is_refused_and_not_asked(recipe, tmp_path, address):
    shards = places(recipe).shards
    write_digits(shards)
    asked = f"{address} {shards}/train-000000.tar" if address.startswith("pipe:") else address
    _seal(shards, lambda tree: tree["splits"]["train"]["shards"][0].update(name=asked))
    for check in (read_manifest, verify, lambda directory: load_split(directory, "train")):
        with pytest.raises(BadInput, match=r"manifest\.json: not a manifest"):
            check(shards)
    assert not (tmp_path / "made").exists()
    if address.startswith("pipe:"):
        assert len(list(WebDataset(asked, shardshuffle=False))) == 4
        assert (tmp_path / "made").exists(), "what stock webdataset does with it"


def _seal(directory: Path, change: Callable[[dict], object]) -> None:
    """Change the manifest and seal it again, as someone who knows how might."""
    path = directory / "manifest.json"
    tree = json.loads(path.read_text())
    change(tree)
    tree["digest"] = canonical_digest({key: value for key, value in tree.items() if key != "digest"})
    path.write_text(json.dumps(tree))


# 37: a character on both sides of a one-shot split


def test_37_a_concept_on_both_sides_is_refused_when_written_read_and_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(str(tiny_recipe(tmp_path, conditional=True)))
    shards = places(recipe).shards
    write_strokes(shards)
    manifest = read_manifest(shards)
    leaked = manifest.splits["test"].concepts[0]
    train = manifest.splits["train"]
    splits = {**manifest.splits, "train": train.model_copy(update={"concepts": (*train.concepts, leaked)})}
    with pytest.raises(BadInput, match=f"'{leaked}' stands in both train and test"):
        manifest.model_copy(update={"splits": splits}).write(tmp_path / "leaky")
    assert not (tmp_path / "leaky").exists()
    _seal(shards, lambda tree: tree["splits"]["train"]["concepts"].append(leaked))
    for name in ("verify", "train"):
        done = verb(tmp_path, name, "--recipe", "tiny.yaml")
        assert done.returncode == 2
        assert "the one-shot split leaks" in done.stderr
    assert not (tmp_path / ".seqgen").exists()


def test_37_a_leak_that_the_manifest_hides_is_found_by_verify(tmp_path):
    """Characters of test that were put among those of train, under the names that the manifest has."""
    write_strokes(tmp_path)
    manifest = read_manifest(tmp_path)
    shutil.copy(tmp_path / "test-000000.tar", tmp_path / "valid-000000.tar")
    test = manifest.splits["test"]
    sealed = test.shards[0].model_copy(update={"name": "valid-000000.tar"})
    valid = manifest.splits["valid"].model_copy(update={"shards": (sealed,), "images": test.images})
    manifest.model_copy(update={"splits": {**manifest.splits, "valid": valid}}).write(tmp_path)
    with pytest.raises(OperationalError, match="the concepts of valid are not the manifest's"):
        verify(tmp_path)
