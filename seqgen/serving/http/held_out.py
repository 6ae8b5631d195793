"""Held-out drawings for the page's picker and the game: the test split of a sharded set, and of which one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from seqgen.core.errors import BadInput
from seqgen.data.images import ImageSet, load_split
from seqgen.data.manifest import read_manifest
from seqgen.data.order import generator_at
from seqgen.serving.http.schemas import HeldOutSet
from seqgen.serving.http.served import Served

_SPLIT = "test"


class Drawings(NamedTuple):
    """Drawings [n,H,W] in [0,1], 1 = ink, and one more of their character `concept`, [H,W]; both None for any."""

    drawings: np.ndarray
    context: np.ndarray | None
    concept: str | None


class HeldOutDrawings:
    """The drawings that no training on the set in a directory has seen. Raises as `load_split`."""

    def __init__(self, directory: Path) -> None:
        self._manifest = read_manifest(directory)
        self._set: ImageSet = load_split(directory, _SPLIT)
        self.source: str = self._manifest.data.source

    def __len__(self) -> int:
        return len(self._set)

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        return self._set.height, self._set.width

    @property
    def largest(self) -> int:
        """Drawings of the character that has the most; 0 where no character is known."""
        concepts = self._set.concepts
        return int(concepts[concepts >= 0].bincount().max()) if (concepts >= 0).any() else 0

    def beside(self, served: Served) -> HeldOutSet:
        """The set, compared with the one that a model was trained on."""
        digest, trained_on = self._manifest.digest, served.trained_on
        return HeldOutSet(
            count=len(self),
            largest=self.largest,
            source=self.source,
            title=self._manifest.title,
            split=_SPLIT,
            digest=digest,
            trained_on=trained_on,
            unseen=digest == trained_on,
        )

    def doubt(self, served: Served) -> str:
        """Why a model may have seen them in training, in a sentence; "" if it has not."""
        found = self.beside(served)
        if found.unseen:
            return ""
        trained = f"manifest {found.trained_on[:12]}" if found.trained_on else "no known manifest"
        return (
            f"--held-out: its shards have manifest {found.digest[:12]}, {served.title} was trained on {trained}, and "
            "may have seen these drawings; give the shards that it was trained on"
        )

    def pick(self, count: int, seed: int, same: bool, binary: bool) -> Drawings:
        """`count` different drawings at random from `seed`; with `same` of one character, and one more as context.

        `binary` ones are black and white. Raises BadInput where there are not so many.
        """
        generator = generator_at(torch.device("cpu"), seed, "held-out drawings")
        if not same:
            if count > len(self):
                raise BadInput(f"count={count}: there are {len(self)} held-out drawings; ask for fewer")
            return Drawings(
                self._images(torch.randperm(len(self), generator=generator)[:count], binary), None, None
            )
        concepts, counts = self._set.concepts.unique(return_counts=True)
        enough = concepts[(counts > count) & (concepts >= 0)]
        if not len(enough):
            raise BadInput(
                f"count={count}: no held-out character has {count} drawings and one more, the most is {self.largest}; "
                "ask for fewer, or for same=false"
            )
        concept = int(enough[torch.randint(len(enough), (), generator=generator)])
        of_it = (self._set.concepts == concept).nonzero().squeeze(1)
        chosen = of_it[torch.randperm(len(of_it), generator=generator)[: count + 1]]
        images = self._images(chosen, binary)
        return Drawings(images[1:], images[0], self._set.concept_names[concept])

    def _images(self, index: torch.Tensor, binary: bool) -> np.ndarray:
        images = self._set.pixels(index).float() / (self._set.levels - 1)
        return (images > 0.5).float().numpy() if binary else images.numpy()
