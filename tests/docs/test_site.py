"""The docs as a site: built without a warning, whole, and nothing of it is loaded from another host."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("mkdocs", "material", "mkdocstrings_handlers")
LOADED = {"audio": "src", "embed": "src", "iframe": "src", "img": "src", "link": "href", "script": "src"}
NOT_LOADED = {"alternate", "canonical", "next", "prev"}  # links that only name a place
TAGS = re.compile(
    "a|article|body|button|code|div|em|footer|form|h[1-6]|head|header|html|img|input|label|li|link|main|meta|"
    "nav|ol|p|path|pre|script|small|span|strong|svg|table|tbody|td|th|thead|title|tr|ul"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="the extra `docs` is not installed"),
]


class Read(HTMLParser):
    """What a page loads, where it links to, which tags and classes it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.classes: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.classes.update(of.get("class", "").split())
        self.ids.add(of.get("id", ""))
        if tag == "a" and "href" in of:
            self.links.add(of["href"])
        if tag in LOADED and LOADED[tag] in of and of.get("rel") not in NOT_LOADED:
            self.loads.add(of[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Read]:
    found = {page: Read(page) for page in site.rglob("*.html") if page.name != "404.html"}
    assert len(found) > len(list((ROOT / "docs").glob("*.md")))
    return found


def test_every_link_leads_to_something(site: Path, pages: dict[Path, Read]) -> None:
    for page, read in pages.items():
        for link in read.loads | read.links:
            if re.match(r"[a-z]+:|//", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path.split("?")[0]).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (page.relative_to(site), link)
            assert not anchor or anchor == "__skip" or anchor in pages[target].ids, (
                page.relative_to(site),
                link,
            )


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[Path, Read]) -> None:
    for page, read in pages.items():
        assert not [where for where in read.loads if re.match(r"(https?:)?//", where)], page
        assert "mermaid" not in read.classes, "the theme would fetch a program for it"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(\s*[\"']?|@import\s+[\"'])(https?:)?//", sheet.read_text()), sheet


def test_no_text_was_taken_for_a_tag(pages: dict[Path, Read]) -> None:
    for page, read in pages.items():
        assert not [tag for tag in read.tags if not TAGS.fullmatch(tag)], page


def test_readme_is_the_first_page(site: Path, pages: dict[Path, Read]) -> None:
    assert {"two-commands", "the-tree"} <= pages[site / "index.html"].ids


def test_the_reference_has_what_users_call(pages: dict[Path, Read]) -> None:
    ids = set().union(*(read.ids for read in pages.values()))
    assert {"seqgen.api.load", "seqgen.api.Model.sample", "seqgen.training.run.run"} <= ids
    assert {"seqgen.training.callbacks.Callback.epoch", "seqgen.settings.overrides.build_recipe"} <= ids
