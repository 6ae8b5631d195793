"""Make a project in an empty directory."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.command import run
from pipelines.recipes import OWN, RECIPES
from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes

PROJECT = Path(__file__).parent / "project"
# What a project has from it. Files whose names begin with a dot lie there without it.
FILES = {
    "dvc.yaml": "dvc.yaml",
    "params.yaml": "params.yaml",
    "gitignore": ".gitignore",
    "dvcignore": ".dvcignore",
    "rayignore": ".rayignore",
    "dvc/config": ".dvc/config",
    "dvc/gitignore": ".dvc/.gitignore",
}
_NO_GIT = b"[core]\n    no_scm = true\n"

DirectoryArgument = Annotated[Path, typer.Argument(help="Where; made if it is not there.")]


def quickstart(directory: DirectoryArgument = Path()) -> None:
    """Make a project in a directory: the recipes, dvc.yaml, params.yaml; no file that is there is touched."""
    contents = {target: (PROJECT / name).read_bytes() for name, target in FILES.items()}
    contents |= {f"{OWN}/{path.name}": path.read_bytes() for path in sorted(RECIPES.glob("*.yaml"))}
    if not (directory / ".git").exists():  # which DVC wants to be told
        contents[".dvc/config.local"] = _NO_GIT
    if there := [name for name in contents if os.path.lexists(directory / name)]:
        raise BadInput(f"{directory.resolve()}: has {', '.join(there)} already; name an empty directory")
    for name, content in contents.items():
        write_bytes(directory / name, content)
    print(f"{directory.resolve()}: {OWN}/, dvc.yaml, params.yaml")
    print(
        "The kernels that make it faster on a CPU, and then the whole line, in about ten minutes of two cores:"
    )
    if directory.resolve() != Path.cwd():
        print(f"  cd {shlex.quote(str(directory))}")
    print("  python -m seqgen.native")
    print("  dvc repro")


if __name__ == "__main__":
    run(quickstart)
