"""What a version must be before an alias moves to it: what was registered, to the last byte, and no pickle."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import canonical_digest, file_sha256
from seqgen.serving.loading import (
    ADDED,
    MODEL_PART,
    check_description,
    check_model,
    fetch_part,
    title_of_ours,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

FILES_TAG = "seqgen.files_sha256"  # of `files_digest`
_SUFFIXES = {".json", ".npy", ".py", ".cpp", ".h", ".yaml", ".txt", ".md"}
_PICKLES = (b"\x80", b"PK")  # a pickle's first byte; a zip, which is what torch.save writes
# Whose first bytes may be anything: they are read as what they are, or not at all.
_PARSED = {"MLmodel", "weights.safetensors"}


def files_digest(directory: Path) -> str:
    """The sha256 of the names and contents of all files in `directory`."""
    return canonical_digest({name: file_sha256(path) for name, path in _files(directory).items()})


def inspect(client: MlflowClient, version: ModelVersion) -> None:
    """Fetch the whole version, compare it with what was registered, and load its model as `seqgen.load` does.

    Nothing stored with it is run. Raises BadInput for a version that is not as seqgen registers them,
    OperationalError if its files are gone or altered.
    """
    from seqgen.models import load_model

    title = title_of_ours(version)
    with tempfile.TemporaryDirectory() as directory:
        found = fetch_part(client, version, "", Path(directory))
        if client.tracking_uri.startswith("sqlite:"):
            _forget_compiled(found)
        check_description(title, found / "MLmodel")
        for name, path in _files(found).items():
            if path.name not in _PARSED and _may_be_pickle(path):
                raise BadInput(f"{title}: {name} may hold a pickle, and seqgen registers none; not promoted")
        recorded = version.tags.get(FILES_TAG)  # versions of before this tag have that of the weights alone
        if recorded is not None and files_digest(found) != recorded:
            raise OperationalError(f"{title}: its files were altered since it was registered; not promoted")
        load_model(check_model(version, found / MODEL_PART))


def _files(directory: Path) -> dict[str, Path]:
    return {
        path.relative_to(directory).as_posix(): path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ADDED
    }


def _may_be_pickle(path: Path) -> bool:
    with path.open("rb") as stream:
        return path.suffix not in _SUFFIXES or stream.read(2).startswith(_PICKLES)


def _forget_compiled(directory: Path) -> None:
    """A local store's files are not copied when MLflow loads them: Python compiles what it imports beside them."""
    for compiled in directory.glob("code/**/__pycache__"):
        shutil.rmtree(compiled)
