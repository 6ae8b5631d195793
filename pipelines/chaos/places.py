"""Where the two trainings leave everything: fresh, and apart from each other and from the recipe's own."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.artifacts.places import places, state_root
from pipelines.cluster.storage import storage_root
from pipelines.storage import open_store
from seqgen.core.errors import BadInput
from seqgen.core.locks import Taken, held
from seqgen.settings import Recipe


@dataclass(frozen=True)
class Place:
    """Where one of the two trainings leaves everything: `root`, and the storage of its checkpoints."""

    root: Path
    storage: str
    recipe: str

    @property
    def train(self) -> Path:
        """What the training leaves."""
        return self.root / "artifacts" / self.recipe / "train"

    @property
    def footprints(self) -> Path:
        """What its processes held, in time."""
        return self.root / "footprints.csv"

    @property
    def tracking(self) -> str:
        """Its own tracking database."""
        return f"sqlite:///{self.root / 'mlflow.db'}"

    def environment(self) -> dict[str, str]:
        """What the training's process sees."""
        return {
            **os.environ,
            "SEQGEN_ARTIFACTS": str(self.root / "artifacts"),
            "SEQGEN_STATE": str(self.root / "state"),
            "SEQGEN_STORAGE": self.storage,
            "MLFLOW_TRACKING_URI": self.tracking,
        }


@contextlib.contextmanager
def fresh_places(recipe: Recipe) -> Iterator[tuple[Place, Place]]:
    """Fresh places for the two trainings, beside the recipe's own: where its shards can be read, these can, too.

    The checkpoints go to the usual storage, below a name of their own, and are removed if all went well.
    """
    own = places(recipe).root
    root, storage = own.parent / "chaos" / recipe.name, f"{storage_root()}/chaos-{recipe.name}"
    with _alone(recipe):
        _clear(storage)
        shutil.rmtree(root, ignore_errors=True)
        calm, storm = (Place(root / kind, f"{storage}/{kind}", recipe.name) for kind in ("calm", "storm"))
        for place in (calm, storm):
            products = place.train.parent
            products.mkdir(parents=True)
            for name in ("shards", "search"):
                if (own / name).exists():
                    (products / name).symlink_to(own / name)
        yield calm, storm
        _clear(storage)


@contextlib.contextmanager
def _alone(recipe: Recipe) -> Iterator[None]:
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(held(state_root() / "locks" / f"chaos-{recipe.name}.lock"))
        except Taken as taken:
            raise BadInput(f"another process does the same ({taken.holder}); wait for it") from None
        yield


def _clear(storage: str) -> None:
    store = open_store(storage)
    store.delete(store.list())
    if not storage.startswith("s3://"):
        shutil.rmtree(storage, ignore_errors=True)  # empty folders
