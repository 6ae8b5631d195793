"""The page asks for what there is and for no more than it is told that it may."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.serve_process import ServeProcess
from tests.served_models import saved
from tests.serving.page.sheet import Sheet
from tests.sets import write_flat, write_strokes

pytestmark = pytest.mark.slow
Open = Callable[..., Sheet]


@pytest.fixture(scope="module")
def narrow(
    chromium: str, characters: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServeProcess]:
    """Little may be asked of it; its held-out characters have four drawings each."""
    where = tmp_path_factory.mktemp("narrow")
    write_strokes(where / "strokes")
    limits = ("--max-samples=4", "--max-images=5")
    with ServeProcess(where, characters, f"--held-out={where / 'strokes'}", *limits) as server:
        yield server


@pytest.fixture(scope="module")
def flat(chromium: str, characters: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """It has six held-out drawings, of which nothing is known."""
    where = tmp_path_factory.mktemp("flat")
    write_flat(where / "flat", 6)
    with ServeProcess(where, characters, f"--held-out={where / 'flat'}") as server:
        yield server


@pytest.fixture(scope="module")
def bits(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """Its latents are bits; two requests may wait."""
    where = tmp_path_factory.mktemp("bits")
    model = saved(where / "bits", (28, 28), steps=4, latent="bernoulli")
    with ServeProcess(where, model, "--max-queue=2") as server:
        yield server


def test_as_many_are_drawn_and_offered_as_may_be(narrow: ServeProcess, open_sheet: Open):
    sheet = open_sheet(narrow)
    sheet.take("draw", 2, 5)
    assert sheet.view("draw").locator("[data-do=go]").inner_text() == "Draw 4"
    sheet.press("draw", "Draw 4")
    assert sheet.message() == "4 drawings in 4 steps, seed 0."
    assert len(sheet.tiles("draw")) == 4


def test_a_trace_that_may_have_few_images_has_few(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    sheet.told(limits={"traced": 13})
    assert sheet.view("draw").locator("[data-do=go]").inner_text() == "Draw 3"


def test_a_part_is_filled_in_with_what_a_small_character_has(narrow: ServeProcess, open_sheet: Open):
    sheet = open_sheet(narrow, "#fill")
    sheet.take("fill", 0, 3)
    sheet.stroke("fill", (0.3, 0.3), (0.7, 0.7))
    with sheet.page.expect_request("**/v1/impute") as asked:
        sheet.press("fill", "Fill in")
    found = narrow.get("/v1/held-out?count=3&seed=0&same=true&format=array").json()
    assert asked.value.post_data_json["context"] == found["context"]
    assert len(sheet.tiles("fill")) == 4


def test_a_game_of_small_characters_has_small_grids(narrow: ServeProcess, open_sheet: Open):
    sheet = open_sheet(narrow, "#game")
    sheet.press("game", "Begin")
    for side in ("left", "right"):
        grid = sheet.view("game").locator(f"[data-side={side}] canvas")
        assert grid.count() == 3
        assert all(np.ptp(sheet.pixels(canvas)) > 0 for canvas in grid.element_handles())
    sheet.page.keyboard.press("ArrowLeft")
    sheet.view("game").get_by_text("For judges").click()
    _, content = sheet.saved("game", "Save the rounds as CSV", "")
    (row,) = csv.DictReader(io.StringIO(content.decode(), newline=""))
    assert row["drawings"] == "3"


def test_drawings_of_no_known_character_are_offered_and_no_game_is(flat: ServeProcess, open_sheet: Open):
    sheet = open_sheet(flat)
    sheet.picks("draw", 6)
    sheet.page.get_by_role("link", name="Fill in").click()
    sheet.picks("fill", 6)
    sheet.page.get_by_role("link", name="Which is the machine's?").click()
    game = sheet.view("game")
    assert "No held-out character has two drawings" in game.inner_text()
    assert game.get_by_role("button", name="Begin").count() == 0
    assert not game.get_by_text("For judges").is_visible()


def test_no_more_requests_are_sent_than_may_wait(bits: ServeProcess, open_sheet: Open):
    sheet = open_sheet(bits)
    sheet.press("samples", "Draw 20")
    assert sheet.alarm() == ""
    assert len(sheet.tiles("samples")) == 20
    assert sheet.errors == [], "none was refused"


def test_where_noise_is_not_gaussian_no_temperature_and_no_walk_are_offered(
    bits: ServeProcess, unconditional: ServeProcess, open_sheet: Open
):
    for server, offered in ((bits, False), (unconditional, True)):
        sheet = open_sheet(server)
        samples = sheet.view("samples")
        assert samples.get_by_label("Temperature").count() == int(offered)
        assert samples.get_by_text("A walk between two").is_visible() == offered
        assert samples.get_by_text("the model walks").is_visible() == offered
        sheet.press("samples", "Draw 20")
        assert samples.locator("[data-part=tiles] button").count() == (20 if offered else 0)


def test_the_game_asks_for_no_temperature_where_none_can_be(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional, "#game")
    sheet.told(gaussian=False)
    sheet.view("game").get_by_text("For judges").click()
    assert sheet.view("game").get_by_label("Judge").is_visible()
    assert sheet.view("game").get_by_label("Temperature").count() == 0
