"""The page in Debian's chromium, served by the real process with untrained models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.shard_set import shard_set
from seqgen.models import build, save_model
from seqgen.settings import ModelConfig
from tests.raw_files import Make
from tests.serving.page.served import Served
from tests.serving.page.sheet import Sheet

SMALL = {
    "steps": 4,
    "latents": 6,
    "hidden": 16,
    "attention": "spatial-transformer",
    "read_size": 4,
    "write_size": 4,
    "canvas": "additive",
    "canvas_channels": 1,
    "observation": "identity",
}
STRONGER = 4  # times the weights of a start: what is drawn from different noise shall differ to the eye


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
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
def conditional(browser: Any, held_out: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a model that draws given a drawing."""
    model = _model(tmp_path_factory.mktemp("model") / "characters", conditional=True)
    yield from _serving(Served(model, held_out))


@pytest.fixture(scope="session")
def unconditional(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a model that draws from noise alone, without held-out drawings."""
    yield from _serving(Served(_model(tmp_path_factory.mktemp("model") / "digits", conditional=False)))


@pytest.fixture
def open_sheet(browser: Any) -> Iterator[Callable[..., Sheet]]:
    """`open_sheet(server, "#draw", **context)`: the page in a browser of its own, which must log no error."""
    opened = []

    def opening(server: Served, view: str = "", **context: Any) -> Sheet:
        sheet = Sheet(browser.new_context(**context), server.url + "/" + view)
        opened.append(sheet)
        return sheet

    yield opening
    for sheet in opened:
        sheet.close()


def _model(directory: Path, **settings: Any) -> Path:
    torch.manual_seed(0)
    model = build(ModelConfig(**SMALL, **settings), 28, 28, 0.4).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(STRONGER)
    save_model(model, directory)
    return directory


def _serving(server: Served) -> Iterator[Served]:
    server.start()
    yield server
    server.kill()
