"""The page of an unconditional model: a sheet of samples, the walk between two, a part filled in."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from tests.serve_process import ServeProcess
from tests.serving.page.sheet import Sheet

pytestmark = pytest.mark.slow
Open = Callable[..., Sheet]


def test_only_what_the_model_can_is_offered(unconditional: ServeProcess, open_sheet: Open):
    links = open_sheet(unconditional).page.locator("nav a:visible").all_inner_texts()
    assert links == ["Samples", "Fill in"]


def test_twenty_samples_and_a_walk_between_two(unconditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(unconditional)
    sheet.press("samples", "Draw 20")
    sheet.last_step("samples")
    samples = sheet.tiles("samples")
    assert len(samples) == 20
    assert all(not np.array_equal(one, other) for one, other in combinations(samples, 2))
    buttons = sheet.view("samples").locator("[data-part=tiles] button")
    buttons.nth(2).click()
    assert sheet.message() == "Seed 2 is one end; choose the other."
    buttons.nth(7).click()
    sheet.settled()
    walk = sheet.tiles("samples", "strip")
    assert len(walk) == 15
    for end, sample in ((walk[0], samples[2]), (walk[-1], samples[7])):
        assert np.abs(end.astype(int) - sample).max() <= 1, "the walk's ends are the two, rounded to a grey"
    assert all(not np.array_equal(one, other) for one, other in combinations(walk, 2))
    gif = sheet.picture("samples", "Save GIF", "walk")
    assert gif.n_frames == 28, "there and back"


def test_new_drawings_have_no_walk_of_the_old_ones(unconditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(unconditional)
    shown = sheet.view("samples").locator("[data-part=walk] .shown")
    for button in ("Draw 20", "Again"):
        sheet.press("samples", button)
        assert not shown.is_visible()
        buttons = sheet.view("samples").locator("[data-part=tiles] button")
        buttons.nth(2).click()
        buttons.nth(7).click()
        sheet.settled()
        assert shown.is_visible()
    assert sheet.saved("samples", "Save PNG", "walk")[0] == "walk-seed-22-to-27.png"


def test_a_file_says_its_temperature_if_it_is_not_1(unconditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(unconditional)
    sheet.view("samples").get_by_label("Temperature").fill("0.5")
    sheet.press("samples", "Draw 20")
    sheet.view("samples").get_by_label("Temperature").fill("1")  # not that of what is seen
    buttons = sheet.view("samples").locator("[data-part=tiles] button")
    buttons.nth(2).click()
    buttons.nth(7).click()
    sheet.settled()
    assert sheet.saved("samples", "Save PNG")[0] == "samples-seeds-0-to-19-temperature-0.5.png"
    assert sheet.saved("samples", "Save GIF", "walk")[0] == "walk-seed-2-to-7-temperature-0.5.gif"


def test_a_walk_fits_a_phone(unconditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(unconditional, viewport={"width": 400, "height": 800})
    sheet.press("samples", "Draw 20")
    buttons = sheet.view("samples").locator("[data-part=tiles] button")
    buttons.nth(2).click()
    buttons.nth(7).click()
    sheet.settled()
    assert sheet.view("samples").locator("[data-part=walk] .shown").is_visible()
    assert sheet.page.evaluate("document.scrollingElement.scrollWidth") <= 400


def test_again_takes_seeds_that_were_not_seen(unconditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(unconditional)
    sheet.press("samples", "Draw 20")
    sheet.press("samples", "Again")
    sheet.last_step("samples")
    labels = [
        canvas.get_attribute("aria-label")
        for canvas in sheet.view("samples").locator("[data-part=tiles] canvas").element_handles()
    ]
    assert labels == [f"Seed {seed}" for seed in range(20, 40)]


def test_seeds_go_on_from_the_first_after_the_last(unconditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(unconditional)
    sheet.view("samples").get_by_label("Seed").fill(str(2**32 - 5))
    sheet.press("samples", "Draw 20")
    assert sheet.message() == f"20 drawings in 4 steps, seeds {2**32 - 5} to 14."
    canvases = sheet.view("samples").locator("[data-part=tiles] canvas")
    labels = canvases.evaluate_all("all => all.map((canvas) => canvas.ariaLabel)")
    assert labels == [f"Seed {(2**32 - 5 + index) % 2**32}" for index in range(20)]


def test_no_end_of_a_walk_is_chosen_while_the_model_walks(unconditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(unconditional)
    sheet.press("samples", "Draw 20")
    buttons = sheet.view("samples").locator("[data-part=tiles] button")
    with sheet.kept_waiting("/v1/walk"):
        for number in (2, 7, 5):
            buttons.nth(number).click()
    pressed = buttons.evaluate_all("all => all.map((button) => button.ariaPressed)")
    assert [number for number, one in enumerate(pressed) if one == "true"] == [2, 7]


def test_drawings_of_two_models_are_not_one_sheet(unconditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(unconditional)

    def answered(route: Any) -> None:
        response = route.fetch()
        model = {"model": "another"} if json.loads(route.request.post_data)["seed"] == 3 else {}
        route.fulfill(response=response, json={**response.json(), **model})

    sheet.page.route("**/v1/trace", answered)
    sheet.press("samples", "Draw 20")
    assert sheet.alarm() == "Another model took over meanwhile; ask again."
    assert sheet.view("samples").locator("[data-part=result] .empty").is_visible()


def test_a_part_is_filled_in_and_the_rest_stays(unconditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(unconditional, "#fill")
    sheet.press("fill", "Pen")
    sheet.stroke("fill", (0.2, 0.2), (0.8, 0.8))
    sheet.press("fill", "Fill in")
    assert sheet.alarm().startswith("Nothing is rubbed out")
    sheet.press("fill", "Rub out")
    sheet.stroke("fill", (0.7, 0.2), (0.7, 0.8))
    sheet.press("fill", "Fill in")
    assert sheet.last_step("fill") == 7
    seen, mean = sheet.tiles("fill", "given")
    tiles = sheet.tiles("fill")
    assert len(tiles) == 6
    left = slice(0, int(0.5 * seen.shape[1]))  # nothing is missing there
    for tile in [*tiles, mean]:
        assert np.array_equal(tile[:, left], seen[:, left])
    assert any(not np.array_equal(tile, seen) for tile in tiles)
    assert len({tile.tobytes() for tile in tiles}) > 1


def test_a_server_without_held_out_drawings_says_so(unconditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(unconditional, "#fill")
    sheet.view("fill").locator("summary").click()
    assert "has no held-out drawings" in sheet.view("fill").locator(".picks").inner_text()
