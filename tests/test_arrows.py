"""Who may import whom: the arrows of README's "The tree", read from every import of the sources, lazy ones too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("seqgen", "data_prep", "pipelines")
# What a package or room may import of this project, besides itself; the first that a module's name begins with counts.
ALLOWED = {
    "seqgen.core": (),
    "seqgen.data": ("seqgen.core",),
    "seqgen.settings": ("seqgen.core", "seqgen.data"),
    "seqgen.native": ("seqgen.core", "seqgen.ops"),  # it measures the operations when it is built
    "seqgen.ops": ("seqgen.native",),
    "seqgen.models": ("seqgen", "seqgen.core", "seqgen.settings", "seqgen.ops"),
    "seqgen.objectives": ("seqgen.models", "seqgen.settings"),
    "seqgen.evaluation": ("seqgen.core", "seqgen.data", "seqgen.settings", "seqgen.models", "seqgen.objectives"),
    "seqgen.drawing": ("seqgen.core", "seqgen.data", "seqgen.settings", "seqgen.models", "seqgen.evaluation"),
    "seqgen.training": (
        "seqgen", "seqgen.core", "seqgen.data", "seqgen.settings", "seqgen.native", "seqgen.models",
        "seqgen.objectives", "seqgen.evaluation",
    ),
    "seqgen.compression": ("seqgen", "seqgen.core", "seqgen.models", "seqgen.native", "seqgen.ops"),
    "seqgen.serving.http": (
        "seqgen", "seqgen.api", "seqgen.core", "seqgen.data", "seqgen.models", "seqgen.evaluation", "seqgen.serving",
    ),
    "seqgen.serving": ("seqgen.core", "seqgen.models"),
    "seqgen": ("seqgen.serving",),
    "data_prep": ("seqgen.core", "seqgen.data"),
    "pipelines": ("seqgen", "data_prep"),
}  # fmt: skip
# Libraries that only these may know.
KNOWN_TO = {
    "ray": ("pipelines.cluster", "pipelines.search", "pipelines.tracking.lineage"),
    "mlflow": ("pipelines", "seqgen.serving"),
    "dvc": ("pipelines",),
    "boto3": ("pipelines", "data_prep"),
    "botocore": ("pipelines", "data_prep"),
}


def modules() -> dict[str, Path]:
    return {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


MODULES = modules()


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Every (module, name of it or None) that the file imports, a submodule as a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, None) if inner in MODULES else (node.module, alias.name)


def is_in(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def room(module: str) -> str:
    return next(name for name in ALLOWED if is_in(module, (name,)))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_its_room_may(module: str):
    own = room(module)
    for imported, name in imports(MODULES[module]):
        if is_in(imported, PACKAGES) and not is_in(imported, (own,)):
            allowed = ALLOWED[own]
            fits = imported in allowed or is_in(imported, tuple(part for part in allowed if part != "seqgen"))
            assert fits or own == "pipelines", f"{module} imports {imported}"
        top = imported.partition(".")[0]
        if top in KNOWN_TO:
            assert is_in(module, KNOWN_TO[top]), f"{module} knows {top}"
        if (
            is_in(imported, PACKAGES)
            and name is not None
            and name.startswith("_")
            and not name.startswith("__")
        ):
            assert imported == module, f"{module} imports the private {imported}.{name}"


def test_nothing_but_benchmarks_and_tests_imports_pipelines():
    for module, path in MODULES.items():
        if not is_in(module, ("pipelines",)):
            assert not any(is_in(imported, ("pipelines",)) for imported, _ in imports(path)), module
