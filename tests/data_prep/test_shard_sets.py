"""A whole set: right content, the same bytes everywhere, whole or absent; verify finds what is wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data_prep.omniglot import decode_drawing
from data_prep.parallel import parallel_map
from data_prep.shard_set import shard_set
from data_prep.shrink import shrink
from data_prep.verify import verify
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import directory_writer
from seqgen.data.manifest import Manifest, check_shard_bytes, read_manifest
from seqgen.data.shards import encode_sample, read_shard, write_shard

ROOT = Path(__file__).parents[2]


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def _samples(directory: Path, split: str):
    index = read_manifest(directory).splits[split]
    return [sample for shard in index.shards for sample in read_shard(directory / shard.name)]


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
    write(path, samples)
    written.append(path)
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


def test_two_writers_at_once_are_refused_and_a_failed_one_leaves_what_was(tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError), directory_writer(target) as building:
        (building / "half" / "done").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert [path.name for path in target.iterdir()] == ["old"]
    with directory_writer(target) as building:
        (building / "new").touch()
        with pytest.raises(OperationalError, match="another process is writing"), directory_writer(target):
            pass
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


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


def test_a_killed_process_of_the_pool_is_one_error():
    with pytest.raises(OperationalError, match="was killed"):
        list(parallel_map(os._exit, [1, 1], processes=2))


def _rewrite(directory: Path, **changes) -> None:
    """Change the manifest and seal it again, as someone who knows how might."""
    tree = json.loads((directory / "manifest.json").read_text())
    for dotted, value in changes.items():
        node = tree
        *path, leaf = dotted.split("__")
        for part in path:
            node = node[int(part)] if part.isdigit() else node[part]
        node[leaf] = value
    tree["digest"] = Manifest.model_validate(tree).compute_digest()
    (directory / "manifest.json").write_text(json.dumps(tree))


def test_verify_names_the_shard_and_the_member_of_every_damage(small_set):
    for name, key in [("test-000000.tar", 5), ("train-000000.tar", 3)]:
        with tarfile.open(small_set / name) as tar:
            member = tar.getmembers()[2 * key]
        content = bytearray((small_set / name).read_bytes())
        content[member.offset_data + 60] ^= 1
        (small_set / name).write_bytes(content)
        with pytest.raises(OperationalError, match="damaged"):
            check_shard_bytes(
                small_set,
                next(s for i in read_manifest(small_set).splits.values() for s in i.shards if s.name == name),
            )
    with pytest.raises(OperationalError) as caught:
        verify(small_set)
    for part in ("test-000000.tar: 000005-", "train-000000.tar: 000003-", "sha256 differs"):
        assert part in str(caught.value)
    assert "valid-000000.tar" not in str(caught.value)


def test_verify_finds_shards_that_are_gone_strange_or_exchanged(small_set):
    (small_set / "valid-000000.tar").rename(small_set / "valid-000007.tar")
    with pytest.raises(OperationalError) as caught:
        verify(small_set)
    assert "valid-000000.tar: missing" in str(caught.value)
    assert "valid-000007.tar: not in the manifest" in str(caught.value)
    (small_set / "valid-000007.tar").unlink()
    shutil.copy(small_set / "train-000000.tar", small_set / "valid-000000.tar")
    with pytest.raises(OperationalError, match=r"valid-000000\.tar: damaged"):
        verify(small_set)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mean": 0.5}, "mean=0.5"),
        ({"height": 27, "width": 27}, r"\(28, 28\), not \(27, 27\)"),
        ({"splits__valid__images": 21}, "do not add up to 21"),
        ({"splits__valid__shards__0__samples": 2}, "the manifest has 2"),
        ({"splits__valid__shards__0__images": 40}, "the manifest has 1, 40"),
        ({"splits__valid__concepts": ["x/character01"]}, "concepts of valid"),
        ({"data__source": "omniglot"}, "of omniglot-strokes, not omniglot"),
    ],
)
def test_verify_compares_everything_with_the_manifest(small_set, changes, problem):
    _rewrite(small_set, **changes)
    with pytest.raises(OperationalError, match=problem):
        verify(small_set)


def test_a_grey_shard_in_a_binary_set_is_found(small_set):
    samples = _samples(small_set, "valid")
    fields = ("dataset", "alphabet", "character", "concept", "drawers", "labels")
    grey = [
        (f"{n:06d}", *encode_sample(images * 200, 256, {field: meta[field] for field in fields}))
        for n, (images, meta) in enumerate(samples)
    ]
    write_shard(small_set / "valid-000000.tar", grey)
    with pytest.raises(OperationalError, match="grey levels in a set of 2"):
        verify(small_set)


def test_a_manifest_that_is_absent_altered_or_lists_addresses_is_refused(small_set, tmp_path):
    with pytest.raises(BadInput, match="no manifest"):
        verify(tmp_path)
    path = small_set / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"images": 240', '"images": 241', 1))
    with pytest.raises(OperationalError, match="altered"):
        verify(small_set)
    for address in ("pipe:cat x.tar", "http://host/train-000000.tar", "../train-000000.tar", "/x-000000.tar"):
        path.write_text(text.replace('"train-000000.tar"', json.dumps(address)))
        with pytest.raises(BadInput, match="not a manifest"):
            verify(small_set)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(BadInput, match="not a manifest"):
        verify(small_set)


def test_a_concept_on_both_sides_is_refused_when_written_and_when_read(small_set):
    manifest = read_manifest(small_set)
    leaked = manifest.splits["test"].concepts[0]
    train = manifest.splits["train"]
    splits = {**manifest.splits, "train": train.model_copy(update={"concepts": (*train.concepts, leaked)})}
    leaky = manifest.model_copy(update={"splits": splits})
    with pytest.raises(BadInput, match=f"'{leaked}' stands in both train and test"):
        leaky.write(small_set)
    _rewrite(small_set, splits__train__concepts=[*train.concepts, leaked])
    with pytest.raises(BadInput, match="stands in both"):
        verify(small_set)
