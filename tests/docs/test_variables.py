"""The table of variables in docs/operations.md has those that the source knows, no more and no fewer."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ("seqgen", "data_prep", "pipelines", "benchmarks", "infra")
TEXTS = {".py", ".cpp", ".h", ".sh", ".yaml", ".json", ".tf", ".service", ".timer", ""}


def test_the_table_is_complete():
    files = [path for room in SOURCE for path in (ROOT / room).rglob("*") if path.is_file()]
    known = {
        name
        for path in files
        if path.suffix in TEXTS
        for name in re.findall(r"\bSEQGEN_[A-Z_]*[A-Z]\b", path.read_text())
    }
    assert len(known) > 10
    table = re.findall(r"^\| `(SEQGEN_[A-Z_]+)` \|", (ROOT / "docs/operations.md").read_text(), re.M)
    assert sorted(table) == sorted(known)
