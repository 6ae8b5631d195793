"""The one list of source files: what ships with a model, what the code digest covers, what the stages of DVC watch.

It is computed from the imports that stand in the sources (`pipelines.tracking.imports`), so that no list of files has
to be kept by hand.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from typing import NamedTuple

from pipelines.tracking.imports import Imports, imports
from seqgen.core.errors import BadInput
from seqgen.settings import ModelConfig, TrainConfig
from seqgen.settings.kinds import find, names, within
from seqgen.settings.section import OpenSection

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("seqgen", "data_prep", "pipelines")
# Files that belong to a module without being imported: patterns beside it.
READ = {
    "seqgen.serving.page": ("static/*",),
    "seqgen.native": ("*.cpp", "*.h", "__main__.py"),  # the last one builds the others
    "pipelines.quickstart": ("project/*.yaml", "project/*ignore", "project/dvc/*"),
    "seqgen.serving.http.docs_page": ("templates/*",),
    "pipelines.report": ("artifacts/templates/*.html",),
    "pipelines.evaluate.results": ("templates/results.md",),
    "pipelines.evaluate.family": ("templates/family.md",),
}
# Where kinds are imported by the name that a recipe gives, and the section that names them.
_BY_NAME: dict[str, type[OpenSection]] = {
    "seqgen.models.build": ModelConfig,
    "seqgen.training.run": TrainConfig,
}
# What decides the numbers: the images that are trained on, and the training.
LEARNING = ("data_prep.shard_set", "seqgen.training.run")
# What a registered model is loaded with, by MLflow and by `seqgen.load`.
SHIPPED = ("seqgen.serving.pyfunc", "seqgen.api")
# What `seqgen.api` needs for more than drawing: to be had with this project, not with a model.
NOT_SHIPPED = ("seqgen.objectives", "seqgen.evaluation", "seqgen.compression")


class SourceFiles(NamedTuple):
    """files: the path of each file by its name below the folder of its package, as in "seqgen/core/files.py";
    foreign: the modules of other packages that they import, but for the standard library's."""

    files: dict[str, Path]
    foreign: frozenset[str]


def source_files(*modules: str, without: tuple[str, ...] = (), root: Path = ROOT) -> SourceFiles:
    """The files that `modules` need, of the project's packages (at `root`) and of the packages `modules` are in.

    Those may be a plugin's. Packages in `without` are left out. Raises BadInput if a module is nowhere.
    """
    folders = dict.fromkeys(PACKAGES, root)
    for module in modules:
        top = module.partition(".")[0]
        if top not in folders:
            folders[top] = _folder(top)
        if _file(module, folders[top]) is None:
            raise BadInput(f"{module}: no such module in {folders[top]}")
    files: dict[str, Path] = {}
    foreign: set[str] = set()
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module.startswith(without):
            continue
        folder = folders.get(module.partition(".")[0])
        if folder is None:
            foreign.add(module)
            continue
        for name in itertools.accumulate(module.split("."), "{}.{}".format):
            path = _file(name, folder)
            if path is None:  # no module but something in one
                within, _, something = name.rpartition(".")
                waiting += _imports(within, folder).handed_out.get(something, ())
            elif name not in seen:
                seen.add(name)
                beside = [found for pattern in READ.get(name, ()) for found in path.parent.glob(pattern)]
                files |= {each.relative_to(folder).as_posix(): each for each in (path, *beside)}
                waiting += [*_imports(name, folder).needed, *_kinds(name)]
    standard = {module for module in foreign if module.partition(".")[0] in sys.stdlib_module_names}
    return SourceFiles(dict(sorted(files.items())), frozenset(foreign - standard))


def _kinds(module: str) -> set[str]:
    """The modules of the package's own kinds that `module` imports by name."""
    slots = within(_BY_NAME[module].slots) if module in _BY_NAME else ()
    kinds = (find(slot, name) for slot in slots for name in names(slot))
    return {kind.module for kind in kinds if not kind.from_outside}


def _folder(package: str) -> Path:
    """The folder that an installed package or module lies in."""
    spec = importlib.util.find_spec(package)
    place = next(iter(spec.submodule_search_locations or ()), spec.origin) if spec else None
    if place is None:
        raise BadInput(f"{package}: no such package")
    return Path(place).parent


def _file(module: str, folder: Path) -> Path | None:
    path = folder.joinpath(*module.split("."))
    return next((each for each in (path / "__init__.py", path.with_suffix(".py")) if each.is_file()), None)


def _imports(module: str, folder: Path) -> Imports:
    path = _file(module, folder)
    if path is None:  # a folder without an __init__.py
        return Imports(frozenset(), {})
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return imports(path.read_text(encoding="utf-8"), package)
