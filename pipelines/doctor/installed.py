"""The installed packages, against what the project asks for."""

from __future__ import annotations

import platform
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from pipelines.doctor.findings import Finding, failed, ok, warning
from pipelines.tracking.source_files import ROOT


def versions() -> Iterator[Finding]:
    """Python and every dependency, against pyproject.toml's ranges and the versions of constraints.txt.

    The ranges' lower ends are also where known holes of Ray and MLflow were closed.
    """
    python, requirements = _asked()
    install = f"uv pip install -c constraints.txt -e {ROOT}"
    if not python.contains(platform.python_version()):
        yield failed(
            f"Python {platform.python_version()}, and {python} is asked for", "make an environment with it"
        )
    pins, others, count = _pins(), [], 0
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield failed(
                f"{name} is not installed, and {requirement.specifier or 'any version'} is asked for", install
            )
            continue
        count += 1
        if not requirement.specifier.contains(version, prereleases=True):
            yield failed(f"{name} {version} is installed, and {requirement.specifier} is asked for", install)
        elif (pin := pins.get(name)) and version.partition("+")[0] != pin:
            others.append(f"{name} {version} (tested: {pin})")
    if others:
        yield warning(f"other versions than those tested: {', '.join(others)}", install)
    else:
        yield ok(f"Python {platform.python_version()} and {count} packages")


def _asked() -> tuple[SpecifierSet, list[Requirement]]:
    """What Python, and which packages, the project asks for: as its pyproject.toml says or, installed, its metadata."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    except OSError:
        about = metadata.metadata("seqgen")
        texts = [text for text in metadata.requires("seqgen") or () if "extra ==" not in text]
        return SpecifierSet(about["Requires-Python"]), [Requirement(text) for text in texts]
    return SpecifierSet(project["requires-python"]), [Requirement(text) for text in project["dependencies"]]


def _pins() -> dict[str, str]:
    """The versions the project was tested with; none where constraints.txt is not at hand."""
    try:
        text = (ROOT / "constraints.txt").read_text()
    except OSError:
        return {}
    return {
        canonicalize_name(name): pin for name, pin in re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    }


def floor(package: str) -> str:
    """The lowest version of a package that the project asks for."""
    (requirement,) = (each for each in _asked()[1] if canonicalize_name(each.name) == package)
    return next(each.version for each in requirement.specifier if each.operator == ">=")
