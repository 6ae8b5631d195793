"""What a job takes with it: the files that Ray uploads of a working directory."""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

# The dashboard takes no larger package.
LARGEST = 100 * 2**20
_QUIET = logging.getLogger("seqgen.upload")
_QUIET.setLevel(logging.ERROR)  # the list of files says it better


def pack(directory: Path, target: Path) -> dict[str, int]:
    """Write the package that `ray job submit --working-dir directory` uploads; its files, with their bytes.

    Ray itself packs, so that the list is the upload: without what .gitignore, .rayignore and Ray name.
    """
    from ray._private import ray_constants
    from ray._private.runtime_env.packaging import create_package

    create_package(
        str(directory.resolve()),
        target,
        include_gitignore=os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1",
        excludes=ray_constants.get_runtime_env_default_excludes(),
        logger=_QUIET,
    )
    with zipfile.ZipFile(target) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}


def upload(directory: Path) -> dict[str, int]:
    """The files that `ray job submit --working-dir directory` uploads, with their bytes."""
    with tempfile.TemporaryDirectory() as temporary:
        return pack(directory, Path(temporary) / "package.zip")


def left_out(directory: Path, packed: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
    """What of `directory` is not in the package: name, files, bytes; a folder of which nothing goes is one line."""
    folders = {str(parent) for name in packed for parent in Path(name).parents}

    def within(folder: Path) -> Iterator[tuple[str, int, int]]:
        for path in sorted(folder.iterdir()):
            name = path.relative_to(directory).as_posix()
            if path.is_dir() and not path.is_symlink():
                if name in folders:
                    yield from within(path)
                else:
                    sizes = [_size(each) for each in path.rglob("*") if not each.is_dir()]
                    yield f"{name}/", len(sizes), sum(sizes)
            elif name not in packed:
                yield name, 1, _size(path)

    return within(directory)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # it went away meanwhile
        return 0
