"""Settings files: YAML 1.2's plain values, and nothing that surprises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seqgen.core.errors import BadInput
from seqgen.core.yaml import format_yaml, parse_yaml, read_yaml

RECIPES = sorted((Path(__file__).parents[2] / "pipelines" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("true", True),
        ("1e-3", 1e-3),
        ("1.5E+3", 1500.0),
        ("-.inf", float("-inf")),
        ("1_000", 1000),
        ("0x1f", 31),
        ("0o17", 15),
        ("012", 12),
        ("no", "no"),
        ("on", "on"),
        ("30-20", "30-20"),
        ("1:30", "1:30"),
        ("2016-05-29", "2016-05-29"),
        ("2016-05-29 10:00:00", "2016-05-29 10:00:00"),
        ("'1'", "1"),
        ("{a: 1, b: [2, x]}", {"a": 1, "b": [2, "x"]}),
        ("<<: {a: 1}\nb: 2", {"<<": {"a": 1}, "b": 2}),
        ("a: 1 # one\nÄ: ü", {"a": 1, "Ä": "ü"}),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: Any):
    found = parse_yaml(text, "here")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 2", 3, "key 'a' stands twice"),
        ("a: {b: 1,\n b: 2}", 2, "key 'b' stands twice"),
        ("a: 1\n<<: {c: 1}\na: 2", 3, "key 'a' stands twice"),
        ("a: 1\n1: 2", 2, "key 1 is not a string"),
        ("null: 2", 1, "key None is not a string"),
        ("? [a]\n: 1", 1, "is not a string"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']", 2, "tags, anchors and aliases"),
        ("a: !!int '5'", 1, "tags, anchors and aliases"),
        ("a: !<tag:yaml.org,2002:python/name:os.system> x", 1, "could not determine a constructor"),
        ("a: &x 1\nb: *x", 1, "tags, anchors and aliases"),
        ("a: &x [1, 1]\nb: &y [*x, *x]\nc: [*y, *y]", 1, "tags, anchors and aliases"),
        ("a: *x", 1, "undefined alias"),
        ("a: 1\n{a: 1", 2, ""),
        ("a: 1\nb:\tc", 2, "'\\t'"),
        ("--- 1\n--- 2", 2, "another document"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_line(text: str, line: int, problem: str):
    with pytest.raises(BadInput) as caught:
        parse_yaml(text, "mine.yaml")
    assert str(caught.value).startswith(f"mine.yaml: not plain YAML: line {line}: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["0x_", "9" * 5000, "a: \0", "[" * 3000])
def test_what_cannot_be_read_at_all_is_bad_input(text: str):
    with pytest.raises(BadInput, match=r"^here: not plain YAML: "):
        parse_yaml(text, "here")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff\xfea\x00", "UTF-8"),
        (b"a: \xe4", "UTF-8"),
        (b"a" * 1_000_001, "1000001 bytes; .* at most 1000000"),
    ],
)
def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path, content: bytes, problem: str):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(BadInput, match=rf"mine\.yaml: .*{problem}"):
        read_yaml(tmp_path / "mine.yaml")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path):
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_yaml(tmp_path / "mine.yaml") == {"a": 1, "b": 2}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_is_written_out_is_that_recipe(path: Path):
    tree = read_yaml(path)
    assert parse_yaml(format_yaml(tree), "written") == tree
    assert list(parse_yaml(format_yaml(tree), "written")) == list(tree)


def test_values_that_look_like_others_are_written_as_what_they_are():
    tree = {
        "text": ["1", "1e-3", "true", "~", "", "no", "2016-05-29", "a: b", "é" * 300],
        "number": [1e-5, 1, 0.3],
    }
    assert parse_yaml(format_yaml(tree), "written") == tree
