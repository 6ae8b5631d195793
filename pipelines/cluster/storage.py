"""Where Ray keeps the checkpoints of runs, and what the driver keeps beside them to go on with a run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.places import state_root
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.locks import Taken, held

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_STATE, _COMPLETE = "seqgen-run.json", "seqgen-complete.json"
_REFUSALS = (
    "ACCESS_DENIED",
    "AccessDenied",
    "allow_bucket_creation",  # the bucket is not there
    "INVALID_ACCESS_KEY_ID",
    "NO_SUCH_BUCKET",
    "SIGNATURE_DOES_NOT_MATCH",
)


def storage_root() -> str:
    """SEQGEN_STORAGE (an absolute path or s3://bucket/prefix), else `ray` under `state_root()`.

    Raises BadInput for another kind of address.
    """
    root = os.environ.get("SEQGEN_STORAGE") or str(state_root() / "ray")
    if root.startswith("s3://"):
        return root.rstrip("/")
    if "://" in root or not Path(root).is_absolute():
        raise BadInput(f"SEQGEN_STORAGE={root}: give an absolute path or s3://<bucket>/<prefix>")
    return str(Path(root))


@dataclass(frozen=True)
class RunStorage:
    """One run of Ray Train or Ray Tune: `root`/`name` has its checkpoints, Ray's state and two small files of ours."""

    root: str
    name: str

    @classmethod
    @contextlib.contextmanager
    def claim(cls, name: str) -> Iterator[RunStorage]:
        """The run `name` to go on with, or to start, in `storage_root()`, while no other process can have it.

        Raises BadInput if another process has it.
        """
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(held(state_root() / "locks" / f"{name}.lock"))
            except Taken as taken:
                raise BadInput(
                    f"run {name} is being worked on by another process ({taken.holder}); wait for it"
                ) from None
            yield cls.unfinished(storage_root(), name)

    @classmethod
    def unfinished(cls, root: str, name: str) -> RunStorage:
        """The run `name`, or `name`-2, `name`-3, ... if the ones before are complete.

        A run that did not finish is gone on with; a finished one is left as it is.
        """
        for number in count(1):
            run = cls(root, name if number == 1 else f"{name}-{number}")
            if run._read(_COMPLETE) is None:
                return run
        raise AssertionError

    def state(self) -> dict[str, Any]:
        """What was kept by `keep`; empty for a new run."""
        return self._read(_STATE) or {}

    def keep(self, state: dict[str, Any]) -> None:
        """Write down what is needed to go on with the run."""
        self._write(_STATE, state)

    def complete(self) -> None:
        """Mark the run as finished: the last thing written."""
        self._write(_COMPLETE, {"complete": True})

    def holds(self, prefix: str) -> bool:
        """Whether there is a file in it whose name starts with `prefix`."""
        from pyarrow import fs

        filesystem, path = self._place(prefix)
        directory = fs.FileSelector(path.rpartition("/")[0], allow_not_found=True)
        try:
            return any(file.base_name.startswith(prefix) for file in filesystem.get_file_info(directory))
        except OSError as error:
            raise self._explain(error) from error

    def _read(self, name: str) -> dict[str, Any] | None:
        filesystem, path = self._place(name)
        try:
            with filesystem.open_input_stream(path) as stream:
                return json.loads(stream.read())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise OperationalError(f"{self.root}/{self.name}/{name}: damaged ({error}); delete it") from error
        except OSError as error:
            raise self._explain(error) from error

    def _write(self, name: str, value: dict[str, Any]) -> None:
        filesystem, path = self._place(name)
        try:
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with filesystem.open_output_stream(f"{path}.tmp") as stream:
                stream.write(json.dumps(value).encode())
            filesystem.move(f"{path}.tmp", path)
        except OSError as error:
            raise self._explain(error) from error

    def _place(self, name: str) -> tuple[FileSystem, str]:
        from pyarrow import fs

        try:
            filesystem, root = (
                fs.FileSystem.from_uri(self.root)
                if self.root.startswith("s3://")
                else (fs.LocalFileSystem(), self.root)
            )
        except (OSError, ValueError) as error:
            raise self._explain(error) from error
        return filesystem, f"{root}/{self.name}/{name}"

    def _explain(self, error: Exception) -> BadInput | OperationalError:
        text = " ".join(str(error).split())[:300]
        if isinstance(error, PermissionError) or any(refusal in text for refusal in _REFUSALS):
            return BadInput(
                f"SEQGEN_STORAGE={self.root}: refused ({text}); check the address and the credentials"
            )
        return OperationalError(f"storage {self.root} does not serve us: {text}")
