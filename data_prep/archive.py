"""Zip archives read with suspicion: every member is checked before any is read, and nothing is extracted."""

from __future__ import annotations

import stat
import unicodedata
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from seqgen.core.errors import BadInput

MAX_MEMBERS = 100_000
MAX_MEMBER_BYTES = 64 * 1024  # Omniglot's largest PNG has 521 bytes
MAX_TOTAL_BYTES = 256 * 1024**2


class CheckedZip:
    """The files of a zip by name. Raises BadInput, naming the member, for what no honest archive has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
            raise BadInput(f"{path}: not a whole zip archive ({error}); fetch it again") from error
        try:
            self._files = self._check(self._zip.infolist())
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> CheckedZip:
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """The names of the files (not folders), NFC, in code point order."""
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        """One file's bytes, its CRC checked."""
        try:
            return self._zip.read(self._files[name])
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            OSError,
        ) as error:
            raise self._refused(name, f"damaged: {error}") from error

    def _check(self, members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        if len(members) > MAX_MEMBERS:
            raise BadInput(f"{self.path}: {len(members)} members; at most {MAX_MEMBERS} are accepted")
        seen: set[str] = set()
        spellings: dict[str, str] = {}  # of every folder and file, by what ignores case
        total = 0
        for member in members:
            name = member.orig_filename
            if problem := _problem(member):
                raise self._refused(name, problem)
            whole = _normal(name).rstrip("/")
            if whole in seen:
                raise self._refused(name, "stands twice")
            seen.add(whole)
            for part in (whole, *map(str, PurePosixPath(whole).parents)):
                if spellings.setdefault(part.casefold(), part) != part:
                    raise self._refused(name, f"differs from {spellings[part.casefold()]!r} by case alone")
            total += member.file_size
            if total > MAX_TOTAL_BYTES:
                raise self._refused(name, f"unpacked size passes {MAX_TOTAL_BYTES} bytes")
        return {_normal(member.filename): member for member in members if not member.is_dir()}

    def _refused(self, name: str, problem: str) -> BadInput:
        return BadInput(f"{self.path}: member {name!r}: {problem}; the archive is refused")


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _problem(member: zipfile.ZipInfo) -> str | None:
    name = member.orig_filename  # zipfile cuts `filename` at a NUL and turns backslashes
    mode = stat.S_IFMT(member.external_attr >> 16)
    if not name.isprintable():
        return "a control character in its name"
    if "\\" in name or name[1:2] == ":":
        return "a backslash or drive letter in its name"
    if name.startswith("/"):
        return "an absolute path"
    if ".." in name.split("/"):
        return "leads outside the archive"
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or a device, not a file"
    if member.flag_bits & 1:
        return "encrypted"
    if member.file_size > MAX_MEMBER_BYTES:
        return f"unpacks to {member.file_size} bytes; at most {MAX_MEMBER_BYTES} are accepted"
    return None
