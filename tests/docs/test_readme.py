"""What README and docs say can be run: links resolve, targets, verbs, options and recipes exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from pipelines.cli.command import app_of
from pipelines.cli.verbs import VERBS
from pipelines.recipes import recipe_names

ROOT = Path(__file__).parents[2]
TEXTS = {".cff", ".py", ".md", ".yaml", ".toml", ".txt", ".sh", ".service", ".timer"}
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "infra" / "README.md",
]


def commands(pattern: str) -> list[tuple[str, str]]:
    return [
        (page.name, match.group(0).split("#")[0].strip())
        for page in PAGES
        for match in re.finditer(pattern, page.read_text(), re.M)
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
    found += commands(r"(?:(?<=^    )|(?<=`))seqgen [a-z_]+[^`\n|]*")
    assert len(found) > 5
    # What `seqgen submit` submits, after the two dashes, is another verb.
    found = [(page, part) for page, text in found for part in text.replace(" -- VERB", "").split(" -- ")]
    for page, text in found:
        text = text if text.startswith(("seqgen ", "python ")) else f"seqgen {text}"
        words = shlex.split(text.replace("...", "").replace("'", ""))
        name, *rest = words[1:] if words[0] == "seqgen" else [words[2].removeprefix("pipelines."), *words[3:]]
        name = name.removeprefix("evaluate.")
        if "." in name:  # a module of a room, no verb
            assert importlib.util.find_spec(f"pipelines.{name}"), (page, text)
            continue
        assert name in VERBS, (page, text)
        known = {
            option
            for parameter in get_command(app_of(VERBS[name].command())).params
            for option in parameter.opts
        }
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in known | {"--help"}, (page, text)


def test_recipes_named_in_the_docs_exist():
    for page in PAGES:
        for name in re.findall(
            r"(?:--recipe|-S recipe=|seqgen show) ?([a-z0-9][a-z0-9-]*)", page.read_text()
        ):
            assert name in recipe_names(), (page.name, name)


def test_what_is_installed_first_has_one_version():
    """torch and uv are installed before constraints.txt is read, in three places."""
    texts = {name: (ROOT / name).read_text() for name in ("README.md", "Makefile", "infra/Dockerfile")}
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    assert re.findall(r"\btorch==([\w.]+)", texts["README.md"]) == [pinned["torch"]]
    for name in ("Makefile", "infra/Dockerfile"):
        assert "$(grep '^torch==' constraints.txt)" in texts[name]
        assert len(re.findall("torch==", texts[name])) == 1
    numbers = {name: set(re.findall(r"\buv==([\w.]+)", text)) for name, text in texts.items()}
    assert set(map(len, numbers.values())) == {1}
    assert len(set.union(*numbers.values(), {pinned["uv"]} if "uv" in pinned else set())) == 1


def test_no_machine_path_in_what_is_kept():
    try:
        kept = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    for path in (ROOT / name for name in kept.split()):
        if path.suffix in TEXTS and path.is_file():
            assert not re.search(r"/(work|root|home/\w+)/", path.read_text()), path.name
