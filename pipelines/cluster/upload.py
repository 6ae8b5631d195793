"""What a job takes with it: the files that Ray uploads of a working directory."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path


def upload(directory: Path) -> dict[str, int]:
    """The files that `ray job submit --working-dir directory` uploads, with their bytes, packed by Ray."""
    from ray._private.runtime_env.packaging import create_package

    with tempfile.TemporaryDirectory() as temporary:
        package = Path(temporary) / "package.zip"
        create_package(str(directory.resolve()), package, include_gitignore=True, logger=None)
        with zipfile.ZipFile(package) as archive:
            return {entry.filename: entry.file_size for entry in archive.infolist() if not entry.is_dir()}
