"""The source `folder`: the images of a folder, listed by digest. They stay where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes

_SUFFIXES = {".png", ".jpg", ".jpeg", ".pgm"}


def list_folder(folder: Path, listing: Path) -> int:
    """Write the names and digests of the images below `folder` to `listing`, as `sha256sum` does; how many there are.

    Images are the .png, .jpg, .jpeg and .pgm files, in subfolders too, but what begins with a dot. They stay where they
    are: `listed_files` are those that are listed. Raises BadInput.
    """
    if not folder.is_dir():
        raise BadInput(f"data.folder={folder}: no such folder")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.is_file()
    )
    names = [name for name in names if "/." not in f"/{name}"]
    if not names:
        raise BadInput(f"data.folder={folder}: no {', '.join(sorted(_SUFFIXES))} file in it")
    lines = []
    for name in names:
        if not name.isprintable():
            raise BadInput(f"data.folder={folder}: {name!r} cannot be listed; rename it")
        lines.append(f"{hashlib.sha256(_read(folder / name)).hexdigest()}  {name}\n")
    write_bytes(listing, "".join(lines).encode())
    return len(names)


def listed_files(folder: Path, listing: Path) -> Iterator[tuple[str, Path, bytes]]:
    """Name, path and bytes of every listed file, in order of name.

    Raises BadInput naming a file that is gone or not as it was listed.
    """
    for line in listing.read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ", 1)
        path = folder / name
        content = _read(path)
        if hashlib.sha256(content).hexdigest() != digest:
            raise BadInput(f"{path}: changed since it was fetched; run `python -m pipelines.fetch` again")
        yield name, path, content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
