"""The page in Debian's chromium, served by the real process with untrained models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.shard_set import shard_set
from tests.raw_files import Make
from tests.serve_process import ServeProcess
from tests.served_models import saved
from tests.serving.page.prefixed import Prefixed
from tests.serving.page.sheet import Sheet

SETTINGS = {
    "steps": 4,
    "attention": "spatial-transformer",
    "canvas": "additive",
    "canvas_channels": 1,
    "observation": "identity",
}


@pytest.fixture(scope="session")
def chromium() -> str:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium on the PATH (Debian: apt-get install chromium)")
    return found


# Of a module: while Playwright is open, its loop runs in this thread, and other tests' asyncio.run is refused.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium)
        yield running
        running.close()


@pytest.fixture(scope="session")
def held_out(make: Make, small_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Characters of 20 drawings each."""
    directory = tmp_path_factory.mktemp("held-out") / "set"
    shard_set(make.data, small_raw, directory, processes=1)
    return directory


@pytest.fixture(scope="session")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that draws given a drawing."""
    return _model(tmp_path_factory.mktemp("conditional") / "characters", conditional=True)


@pytest.fixture(scope="session")
def conditional(chromium: str, characters: Path, held_out: Path) -> Iterator[ServeProcess]:
    """A server of `characters`, with held-out drawings."""
    with ServeProcess(characters.parent, characters, f"--held-out={held_out}") as server:
        yield server


@pytest.fixture(scope="session")
def unconditional(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A server of a model that draws from noise alone, without held-out drawings."""
    where = tmp_path_factory.mktemp("unconditional")
    with ServeProcess(where, _model(where / "digits", conditional=False)) as server:
        yield server


@pytest.fixture
def open_sheet(browser: Any) -> Iterator[Callable[..., Sheet]]:
    """`open_sheet(server, "#draw", **context)`: the page in a browser of its own, which must log no error."""
    opened = []

    def opening(server: ServeProcess | Prefixed, view: str = "", **context: Any) -> Sheet:
        sheet = Sheet(browser.new_context(**context), server.url + "/" + view)
        opened.append(sheet)
        return sheet

    yield opening
    for sheet in opened:
        sheet.close()


def _model(directory: Path, *, conditional: bool) -> Path:
    return saved(directory, (28, 28), conditional=conditional, **SETTINGS)
