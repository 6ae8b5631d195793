"""What a module imports, read from its source without running it."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple


class Imports(NamedTuple):
    """Dotted names, of which the last part may be a module or something in one.

    needed: what the module imports, within functions, too; under TYPE_CHECKING nothing is needed.
    handed_out: where each name is from that its `__getattr__` imports when it is first asked for. That is read from
    its imports under TYPE_CHECKING, which tell type checkers the same.
    """

    needed: frozenset[str]
    handed_out: Mapping[str, tuple[str, ...]]


@functools.cache
def imports(source: str, package: str) -> Imports:
    """The imports of a module of `package` (its own name, if it is an `__init__`)."""
    body = ast.parse(source).body
    lazy = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"]
    needed: set[str] = set()
    for_types: set[str] = set()
    for node, checking in _statements(node for node in body if node not in lazy):
        (for_types if checking else needed).update(_names(node, package))
    handed_out = {name.rpartition(".")[2]: (name,) for name in for_types} if lazy else {}
    return Imports(frozenset(needed), handed_out)


def _statements(nodes: Iterable[ast.AST], checking: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every import in `nodes`, and whether it stands under TYPE_CHECKING."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, checking
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _statements(node.body, True)
            yield from _statements(node.orelse, checking)
        else:
            yield from _statements(ast.iter_child_nodes(node), checking)


def _names(node: ast.AST, package: str) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        module = importlib.util.resolve_name(module, package) if node.level else module
        return {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
