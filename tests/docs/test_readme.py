"""What README and docs say can be run: links resolve, targets, verbs, options and recipes exist."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from pipelines.support.recipe import recipe_names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "infra" / "README.md"]


def commands(pattern: str) -> list[tuple[str, str]]:
    return [
        (page.name, match.group(0).split("#")[0].strip())
        for page in PAGES
        for match in re.finditer(pattern, page.read_text())
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page, command in commands(r"(?:(?<=    )|(?<=`))make [a-z][a-z-]+(?=\s|`|$)"):
        assert re.search(rf"^{command.split()[1]}:", makefile, re.M), (page, command)


def test_verbs_and_their_options_exist():
    found = commands(r"python -m pipelines\.[a-z_]+[^`\n|]*")
    assert len(found) > 5
    for page, text in found:
        words = shlex.split(text.replace("...", "").replace("'", ""))
        module = importlib.import_module(words[2])
        function = getattr(module, words[2].split(".")[1], None) or module.app
        app = function
        if not isinstance(function, typer.Typer):
            app = typer.Typer()
            app.command()(function)
        command = get_command(app)
        known = {option for parameter in command.params for option in parameter.opts}
        for sub in getattr(command, "commands", {}).values():
            known |= {option for parameter in sub.params for option in parameter.opts}
        for word in words[3:]:
            if word.startswith("--"):
                assert word.split("=")[0] in known | {"--help"}, (page, text)


def test_recipes_named_in_the_docs_exist():
    for page in PAGES:
        for name in re.findall(
            r"(?:--recipe|-S recipe=|seqgen show) ?([a-z0-9][a-z0-9-]*)", page.read_text()
        ):
            assert name in recipe_names(), (page.name, name)


def test_no_machine_path_in_what_is_tracked():
    try:
        tracked = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    for name in tracked.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".sh", ".service", ".timer"}:
            assert not re.search(r"/(work|root|home/\w+)/", path.read_text()), name
