"""CITATION.cff is valid by the schema of its format, and says the licence that LICENSE is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def valid(path: Path) -> bool:
    schema = "--builtin-schema=vendor.citation-file-format"
    return subprocess.run([sys.executable, "-m", "check_jsonschema", schema, path]).returncode == 0


def test_the_citation_is_valid(tmp_path: Path) -> None:
    assert valid(ROOT / "CITATION.cff")
    tree = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    del tree["authors"]
    (tmp_path / "CITATION.cff").write_text(yaml.safe_dump(tree))
    assert not valid(tmp_path / "CITATION.cff")


def test_the_licence_is_said_alike() -> None:
    licence = yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"]
    assert (ROOT / "LICENSE").read_text().startswith(f"{licence} License")
