"""Pages of the site that are no file of docs/: README and what is linked outside docs/, notebooks, the API reference.

A hook of MkDocs (mkdocs.yml). Links are written for who reads the repository; here they are turned to the site's pages.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")  # of a file, without its anchor

_written: dict[str, str] = {}  # a page's address in docs/ -> the file it is made of, from the root


def on_config(config: MkDocsConfig) -> None:
    """The reference comes last: a page for each package of the library."""
    assert config.nav is not None
    config.nav.append({"Reference": [{room.replace("/", "."): _reference(room)} for room in _rooms()]})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that docs/ has not."""
    _written.clear()
    ahead = ["README.md", *(f"docs/{page.src_uri}" for page in files.documentation_pages())]
    while ahead:
        path = ahead.pop()
        uri = _uri(path)
        if uri in _written:
            continue
        _written[uri] = path
        text = _text(path)
        if not path.startswith("docs/") or path.endswith(".ipynb"):
            files.append(File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
        ahead += [target for link in LINK.findall(text) if _is_page(target := _target(path, link))]
    for room in _rooms():
        files.append(File.generated(config, _reference(room), content=_modules(room)))


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Turn links to files into links to their pages."""
    here = page.file.src_uri
    if here not in _written:
        return markdown

    def turned(link: re.Match[str]) -> str:
        target = _target(_written[here], link[1])
        return os.path.relpath(_uri(target), Path(here).parent) if (ROOT / target).is_file() else link[1]

    return LINK.sub(turned, markdown)


def _target(path: str, link: str) -> str:
    """What a link of the file `path` leads to, from the root."""
    return os.path.normpath(Path(path).parent / link)


def _is_page(path: str) -> bool:
    """Whether the site must make a page of this file: all but what MkDocs copies out of docs/."""
    wanted = not path.startswith("docs/") or path.endswith((".md", ".ipynb"))
    return wanted and (ROOT / path).is_file()


def _uri(path: str) -> str:
    """Where in docs/ a file has its page, or lies."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/").replace(".ipynb", ".md")
    return path if path.endswith(".md") else f"{path}.md"


def _text(path: str) -> str:
    """A file as Markdown."""
    content = (ROOT / path).read_text()
    if path.endswith(".md"):
        return content
    if path.endswith(".ipynb"):
        cells = ((cell["cell_type"], "".join(cell["source"])) for cell in json.loads(content)["cells"])
        return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells)
    return f"# {path}\n\n````{Path(path).suffix.removeprefix('.') or 'text'}\n{content}````\n"


def _rooms() -> list[str]:
    """The packages of the library, and its modules that lie beside them."""
    found = [
        path
        for path in (ROOT / "seqgen").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    names = sorted(f"seqgen/{path.stem}" for path in found if not path.stem.startswith("_"))
    return [*names, "data_prep"]


def _reference(room: str) -> str:
    return f"reference/{room.replace('/', '.')}.md"


def _modules(room: str) -> str:
    """The page of a package: what it says of itself, then its modules, with what each defines."""
    name = room.replace("/", ".")
    if not (ROOT / room).is_dir():
        return f"# {name}\n\n::: {name}\n"
    paths = sorted(path.relative_to(ROOT).with_suffix("") for path in (ROOT / room).rglob("*.py"))
    parts = [f"# {name}\n\n::: {name}\n    options: {{show_root_heading: false, members: false}}\n"]
    parts += [f"::: {'.'.join(path.parts)}\n" for path in paths if not path.name.startswith("_")]
    return "\n".join(parts)
