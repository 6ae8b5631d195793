"""fetch, shard and verify as commands: what they make, what they refuse, with which exit code."""

from __future__ import annotations

import socket

from seqgen.data.manifest import read_manifest

MNIST = ("--recipe", "quickstart", "--set", "data.source=mnist")


def test_the_quickstart_line_from_nothing_to_verified(verb, tmp_path):
    said = {}
    for recipe in ("quickstart", "quickstart-characters"):
        for name in ("fetch", "shard", "verify"):
            done = verb(name, "--recipe", recipe)
            assert done.returncode == 0, done.stderr
            said[recipe] = done.stdout
    assert "NOT Omniglot" in said["quickstart-characters"]
    digits = read_manifest(tmp_path / "artifacts/quickstart/shards")
    assert {split: index.images for split, index in digits.splits.items()} == {
        "train": 4000,
        "valid": 500,
        "test": 500,
    }
    assert digits.splits["train"].concepts == tuple("0123456789")
    strokes = read_manifest(tmp_path / "artifacts/quickstart-characters/shards")
    assert {split: index.images for split, index in strokes.splits.items()} == {
        "train": 5400,
        "valid": 600,
        "test": 4000,
    }

    damaged = tmp_path / "artifacts/quickstart/shards/train-000000.tar"
    content = bytearray(damaged.read_bytes())
    content[2000] ^= 1
    damaged.write_bytes(content)
    done = verb("verify", "--recipe", "quickstart")
    assert done.returncode == 1
    assert "train-000000.tar: 000000" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_mirrors_and_missing_files_have_their_exit_codes(verb, make, tmp_path):
    done = verb("fetch", *MNIST, SEQGEN_MIRROR=str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such folder" in done.stderr

    done = verb("shard", *MNIST)
    assert done.returncode == 2
    assert "run `seqgen fetch --recipe <name>`" in done.stderr

    (tmp_path / "mirror/mnist").mkdir(parents=True)
    make.idx_images(tmp_path / "mirror/mnist/train-images-idx3-ubyte.gz", 3)
    done = verb("fetch", *MNIST, "--mirror", str(tmp_path / "mirror"))
    assert done.returncode == 2
    assert "expected sha256 440fcabf" in done.stderr
    kept = [path.name for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert kept == ["train-images-idx3-ubyte.gz.bad"]

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        environment = {
            "SEQGEN_MIRROR": "s3://bucket/prefix",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "not-to-be-shown",
        }
        done = verb("fetch", *MNIST, **environment)
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert "not-to-be-shown" not in done.stderr
    for text in (done.stderr, done.stdout):
        assert "Traceback" not in text


def test_verify_of_nothing_is_bad_input(verb, tmp_path):
    done = verb("verify", "--directory", str(tmp_path))
    assert done.returncode == 2
    assert "no manifest" in done.stderr


def test_a_stale_set_is_replaced_as_a_whole(verb, tmp_path):
    assert verb("fetch", "--recipe", "quickstart").returncode == 0
    shards = tmp_path / "artifacts/quickstart/shards"
    shards.mkdir()
    (shards / "train-000099.tar").touch()
    assert verb("shard", "--recipe", "quickstart").returncode == 0
    assert sorted(path.name for path in shards.iterdir()) == [
        "manifest.json",
        "test-000000.tar",
        "train-000000.tar",
        "valid-000000.tar",
    ]
