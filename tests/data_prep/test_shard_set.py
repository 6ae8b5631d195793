"""A whole set: right content, the same bytes everywhere, whole or absent."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.omniglot import decode_drawing
from data_prep.shard_set import shard_set
from data_prep.shrink import shrink
from data_prep.verify import verify
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import read_manifest
from seqgen.data.shards import read_shard

ROOT = Path(__file__).parents[2]


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def _samples(directory: Path, split: str):
    index = read_manifest(directory).splits[split]
    return [sample for shard in index.shards for sample in read_shard(directory, shard)]


def test_a_set_holds_every_drawing_once_and_the_manifest_says_so(make, small_raw, small_set):
    import zipfile

    manifest = read_manifest(small_set)
    counts = {split: index.images for split, index in manifest.splits.items()}
    assert counts == {"train": 12 * 20, "valid": 1 * 20, "test": 64 * 20}
    assert (manifest.height, manifest.width, manifest.levels) == (28, 28, 2)
    assert "NOT Omniglot" in manifest.title
    assert [source.name for source in manifest.sources] == ["images_background.zip", "images_evaluation.zip"]
    pixels = np.concatenate([images for images, _ in _samples(small_set, "train")])
    assert manifest.mean == pixels.mean()
    with zipfile.ZipFile(small_raw / "omniglot_strokes/images_background.zip") as archive:
        for images, meta in _samples(small_set, "train") + _samples(small_set, "valid"):
            folder = f"images_background/{meta['concept']}/"
            names = sorted(name for name in archive.namelist() if name.startswith(folder))
            raw = np.stack([decode_drawing(archive.read(name), name) for name in names])
            assert np.array_equal(images, shrink(raw, 28))
    concepts = [meta["concept"] for _, meta in _samples(small_set, "train")]
    assert tuple(concepts) == manifest.splits["train"].concepts
    assert "Ünïcode/character01" in {*concepts, *manifest.splits["valid"].concepts}
    verify(small_set)


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


def test_the_bytes_do_not_depend_on_locale_zone_umask_hash_seed_or_processes(small_raw, small_set, tmp_path):
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
        assert _digests(tmp_path / f"{n}") == _digests(small_set)
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
def test_killed_half_way_nothing_has_its_final_name_and_a_rerun_is_the_same(
    make, small_raw, small_set, tmp_path, before
):
    target = tmp_path / "out" / "shards"
    if before == "another set":
        shutil.copytree(small_set, target)
        (target / "manifest.json").write_text("{}")
    was = _digests(target) if target.exists() else None
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(small_raw), str(target)], cwd=ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert (_digests(target) if target.exists() else None) == was
    assert [path.name for path in target.parent.iterdir() if path != target] == [".shards.building"]
    shard_set(make.data, small_raw, target, processes=1)
    assert _digests(target) == _digests(small_set)
    assert [path.name for path in target.parent.iterdir()] == ["shards"]


def test_wrong_raw_files_leave_nothing(make, tmp_path):
    with pytest.raises(BadInput, match="not fetched"):
        shard_set(make.data, tmp_path / "raw", tmp_path / "set")
    raw = make.strokes(tmp_path / "raw")
    path = raw / "omniglot_strokes/images_evaluation.zip"
    members = make.character("images_evaluation/EvalA/character01")
    members["images_evaluation/EvalA/character01/0001_05.png"] = make.png(mode="L")
    make.zip(path, members)
    for processes in (1, 2):
        with pytest.raises(BadInput, match="EvalA/character01, drawer 5: L"):
            shard_set(make.data, raw, tmp_path / "set", processes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_place_that_cannot_be_written_is_one_error(make, small_raw, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OperationalError, match="cannot be written"):
        shard_set(make.data, small_raw, tmp_path / "file" / "set", processes=1)
