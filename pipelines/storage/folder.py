"""Files by key in a folder of this machine, or of a file system that many share."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from pipelines.storage import Leftover, Missing, Store
from pipelines.storage.checks import check_key, check_sha256
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import atomic_writer, create_bytes, file_sha256

_CHUNK = 1024**2
# A right or the folder itself is wrong: no later attempt is better.
_REFUSED = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
_NO_FOLDER = (errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


class Folder(Store):
    """The files below the folder `root`; see `pipelines.storage.Store`."""

    def __init__(self, root: str) -> None:
        self.root, self._folder = root, Path(root)

    def put_file(self, local: Path, key: str) -> str:
        with local.open("rb") as source, self._explained(key), atomic_writer(self._path(key)) as stream:
            return _copy(source, stream)

    def get_file(self, key: str, local: Path, sha256: str | None = None) -> None:
        path = self._path(key)
        with self._explained(key):
            try:
                source = path.open("rb")
            except FileNotFoundError:
                raise Missing(f"{path}: not there") from None
        with source, atomic_writer(local) as stream:
            found = _copy(source, stream)
            check_sha256(str(path), found, sha256 or found)

    def write(self, key: str, content: bytes) -> str:
        with self._explained(key), atomic_writer(self._path(key)) as stream:
            stream.write(content)
        return hashlib.sha256(content).hexdigest()

    def create(self, key: str, content: bytes) -> bool:
        with self._explained(key):
            try:
                return create_bytes(self._path(key), content)
            except OSError as error:
                if error.filename2 is None or error.errno not in _NO_LINKS:  # two names: it is the link's
                    raise
                raise BadInput(
                    f"{self.root}: its file system has no hard links, by which one of several machines gets a run; "
                    "name another place in SEQGEN_STORAGE"
                ) from error

    def read(self, key: str, sha256: str | None = None, anyones: bool = False) -> bytes | None:
        path = self._path(key)
        with self._explained(key):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                return None
        if sha256 is not None:
            check_sha256(str(path), hashlib.sha256(content).hexdigest(), sha256)
        return content

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            with self._explained(key):
                path.unlink(missing_ok=True)
            for folder in path.relative_to(self._folder).parents[:-1]:
                with contextlib.suppress(OSError):  # other files are in it
                    (self._folder / folder).rmdir()

    def exists(self, key: str) -> bool:
        with self._explained(key):
            return self._path(key).is_file()

    def sha256(self, key: str) -> str | None:
        with self._explained(key):
            try:
                return file_sha256(self._path(key))
            except FileNotFoundError:
                return None

    def leftovers(self, older_than: timedelta) -> Sequence[Leftover]:
        """Temporary files that were not renamed."""
        found = []
        for name in self._names():
            path = self._folder / name
            with contextlib.suppress(FileNotFoundError):  # it has its name now
                begun = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                if _is_temporary(path) and datetime.now(UTC) - begun >= older_than:
                    key = path.with_name(path.name.removeprefix(".").rsplit(".", 2)[0])
                    found.append(Leftover(key.relative_to(self._folder).as_posix(), name, begun))
        return found

    def remove(self, leftover: Leftover) -> None:
        with self._explained(leftover.key):
            (self._folder / leftover.number).unlink(missing_ok=True)

    def list(self, prefix: str = "") -> list[str]:
        names = self._names(prefix.rpartition("/")[0])
        return [name for name in names if name.startswith(prefix) and not _is_temporary(Path(name))]

    def _names(self, below: str = "") -> Sequence[str]:
        """Every file below a folder of ours, in order."""
        with self._explained(below):
            return sorted(
                (Path(folder) / name).relative_to(self._folder).as_posix()
                for folder, _, names in os.walk(self._folder / below, onerror=_unless_gone)
                for name in names
            )

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._folder / key

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"{self._folder / key}: {error.strerror}"
            if isinstance(error, _REFUSED) or error.errno in _NO_FOLDER:
                raise BadInput(f"{reason}; name a folder that can be written") from error
            raise OperationalError(f"{reason}; make room, or see to the disk") from error


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".tmp"


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """The sha256 of what was copied."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()
