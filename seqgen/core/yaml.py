"""Settings files in YAML 1.2: plain values only; no duplicate keys, tags, anchors, aliases, merges; a date is text."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from seqgen.core.errors import BadInput, one_line

_MAX_BYTES = 1_000_000


class _PlainConstructor(SafeConstructor):
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.anchor or node.ctag.handle:
            raise ConstructorError(None, None, "tags, anchors and aliases are not allowed", node.start_mark)
        return super().construct_object(node, deep)

    def flatten_mapping(self, node: Any) -> None:
        """Leave a merge key where it is: it is read as the text `<<`, which is no setting."""

    def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
        if not isinstance(key, str):
            raise ConstructorError(None, None, f"key {key!r} is not a string", key_node.start_mark)
        if key in mapping:
            raise ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
        return True


for _tag in ("timestamp", "merge", "value"):  # what a plain scalar may be taken for beside text and numbers
    _PlainConstructor.add_constructor(f"tag:yaml.org,2002:{_tag}", SafeConstructor.construct_yaml_str)


def parse_yaml(text: str, where: str) -> Any:
    """Parse `text`; `where` names it in errors. Raises BadInput with the line."""
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _PlainConstructor
    try:
        return reader.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise BadInput(f"{where}: not plain YAML: {line}{error.problem}") from error
    except (YAMLError, RecursionError, ValueError) as error:  # ValueError: 0x_, 5000 digits
        raise BadInput(f"{where}: not plain YAML: {one_line(error)}") from error


def read_yaml(path: Path) -> Any:
    """Read a settings file. Raises BadInput if it is absent, too large, not UTF-8 or not plain YAML."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadInput(f"{path}: {path.stat().st_size} bytes; a settings file has at most {_MAX_BYTES}")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as UTF-8 text: {error}") from error
    return parse_yaml(text, str(path))


def format_yaml(tree: Any) -> str:
    """`tree` as YAML that `parse_yaml` reads back, keys in their order."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 2**16  # a long text stays on its line: folded, its lines would end in spaces
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel says None
    stream = io.StringIO()
    writer.dump(tree, stream)
    return stream.getvalue()
