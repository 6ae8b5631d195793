"""verify: a set against its manifest, and which shard and member is damaged."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from data_prep.shard_files import encode_sample, write_shard
from data_prep.strict_tar import read_strictly
from data_prep.verify import verify
from pipelines.artifacts.published import StoredSet
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import Manifest, check_shard_bytes, read_manifest
from seqgen.data.published import PublishedSet


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
    fields = ("dataset", "alphabet", "character", "concept", "drawers", "labels")
    grey = [
        encode_sample(f"{n:06d}", images * 200, 256, {field: meta[field] for field in fields})
        for n, (images, meta) in enumerate(read_strictly(small_set / "valid-000000.tar"))
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


def test_a_published_set_is_fetched_and_named_by_its_address(small_set):
    """Not what the machine's cache has of it."""
    published = PublishedSet(StoredSet(str(small_set)), None)
    assert verify(published) == read_manifest(small_set)
    shard = read_manifest(small_set).splits["valid"].shards[0]
    _rewrite(small_set, splits__valid__shards__0__samples=shard.samples + 1)
    with pytest.raises(OperationalError, match=rf"^{small_set}/valid-000000\.tar: .* samples"):
        verify(published)
    content = bytearray((small_set / shard.name).read_bytes())
    content[700] ^= 1
    (small_set / shard.name).write_bytes(content)
    with pytest.raises(OperationalError, match=rf"{small_set}/valid-000000\.tar: .*altered"):
        verify(published)
