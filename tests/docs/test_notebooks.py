"""The notebooks of docs/notebooks/ are kept without outputs, are linked from the docs, and run from top to bottom."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.finished_run import outside

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))

# What has come out, asked in a last cell.
OUTCOMES = {
    "draw-and-look": """
assert drawn.shape == (40, 28, 28) and drawn.std(0).mean() > 0.05, "the drawings differ"
assert trace.read.shape == trace.write.shape == (6, 5, 1, 4, 2)
assert upright.mean() < turned.mean() < 784 * 0.693, "it knows what is up, and more than nothing"
assert (filled[:, :14] == x[:, :14]).all() and filled[:, 14:].mean() > 0.02
assert all(len(set(sheet.convert("L").tobytes())) > 30 for sheet in (samples, steps, halves))
""",
    "train-on-a-folder": """
assert len(watched.bounds) == 12 and watched.bounds[-1] < 0.5 * watched.bounds[0]
assert watched.drawn[-1].std(0).mean() > 0.05, "the drawings differ"
assert len(set(learning.convert("L").tobytes())) > 30
assert model.shape == (28, 28)
""",
    "compare-members": """
assert list(free) == list(tighter) == list(MEMBERS)
assert all(len(free[name]) == 500 and tighter[name].mean() < free[name].mean() < 200 for name in MEMBERS)
assert len(set(samples.convert("L").tobytes())) > 30
""",
}


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_as_it_was_written(notebook: Path) -> None:
    tree = json.loads(notebook.read_text())
    assert (tree["nbformat"], tree["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in tree["cells"]}) == len(tree["cells"])
    for cell in cells(notebook, "code"):
        assert cell["outputs"] == [], "clear the outputs before a commit"
        assert cell["execution_count"] is None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_resolve_and_the_docs_link_to_it(notebook: Path) -> None:
    for cell in cells(notebook, "markdown"):
        for target in re.findall(r"\]\(([^)#]+)", "".join(cell["source"])):
            assert target.startswith("http") or (notebook.parent / target).is_file(), target
    assert any(f"(notebooks/{notebook.name})" in page.read_text() for page in DOCS.glob("*.md"))


def test_of_each_it_is_said_what_must_come_out() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == sorted(OUTCOMES)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_in_a_kernel_to_what_must_come_out(notebook: Path, tmp_path: Path) -> None:
    tree = json.loads(notebook.read_text())
    last = {"cell_type": "code", "execution_count": None, "id": "outcomes", "metadata": {}, "outputs": []}
    tree["cells"].append({**last, "source": OUTCOMES[notebook.stem]})
    copy = tmp_path / notebook.name
    copy.write_text(json.dumps(tree))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=1500", copy.name],
        cwd=tmp_path,
        env=outside(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
