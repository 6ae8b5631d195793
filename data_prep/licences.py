"""Under which licence the images of each source are."""

from __future__ import annotations

from typing import NamedTuple

from seqgen.data.settings import Source


class Licence(NamedTuple):
    """identifier: as Hugging Face's front matter names it; terms: whose it is and what it asks, in a sentence."""

    identifier: str
    terms: str


_OMNIGLOT = Licence("mit", "MIT License, (c) 2015 Brenden Lake.")
_MNIST = Licence(
    "cc-by-sa-3.0",
    "Creative Commons Attribution-ShareAlike 3.0, Yann LeCun and Corinna Cortes: who passes it on, changed as here, "
    "names them and gives the same licence.",
)
LICENCES: dict[Source, Licence] = {
    "mnist": _MNIST,
    "binarized-mnist": _MNIST,
    "mnist-5k": _MNIST,
    "multi-mnist": _MNIST,
    "multi-mnist-5k": _MNIST,
    "omniglot": _OMNIGLOT,
    "omniglot-strokes": Licence("mit", "MIT License, the seqgen authors: drawn by seqgen."),
    "folder": Licence("unknown", "What the owner of the folder's images says; seqgen does not know it."),
}
