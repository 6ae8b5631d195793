"""The page draws with people: mouse, finger, keys, held-out drawings, and what it says when the server is gone."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.free_ports import free_ports
from tests.serve_process import ServeProcess
from tests.serving.page.sheet import Sheet

pytestmark = pytest.mark.slow
Open = Callable[..., Sheet]

CROSS = [((0.2, 0.5), (0.8, 0.5)), ((0.5, 0.2), (0.5, 0.8))]
STEPS = 4  # of the model


def drawn(sheet: Sheet) -> list[np.ndarray]:
    """A cross, drawn with the mouse; what the model makes of it."""
    for stroke in CROSS:
        sheet.stroke("draw", *stroke)
    sheet.press("draw", "Draw 20")
    assert sheet.last_step("draw") == STEPS
    return sheet.tiles("draw")


def same(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    """Whether each is the same as the other one at its place."""
    return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))


def different(tiles: list[np.ndarray]) -> bool:
    """Whether no two are the same and none is blank."""
    pairs_differ = all(not np.array_equal(one, other) for one, other in combinations(tiles, 2))
    return pairs_differ and all(np.ptp(tile) > 0 for tile in tiles)


def test_strokes_of_the_mouse_become_twenty_drawings(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    tiles = drawn(sheet)
    assert len(tiles) == 20
    assert different(tiles)
    assert sheet.message() == "20 drawings in 4 steps, seed 0."
    given = sheet.tiles("draw", "given")[0]
    assert (given < 128).any(axis=1).mean() > 0.5, "the cross as the model sees it"
    assert set(np.unique(given)) == {16, 255}, "it is black and white, as the model's own data"


def test_the_slider_shows_each_step_and_windows_are_outlined(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    last = drawn(sheet)
    sheet.step("draw", 1)
    first = sheet.tiles("draw")
    assert not any(np.array_equal(one, other) for one, other in zip(first, last, strict=True))
    sheet.last_step("draw")
    sheet.view("draw").get_by_label("where it writes").check()
    outlined = sheet.tiles("draw")
    assert not any(np.array_equal(one, other) for one, other in zip(outlined, last, strict=True))
    given = sheet.tiles("draw", "given")[0]
    sheet.view("draw").get_by_label("where it reads").check()
    assert not np.array_equal(sheet.tiles("draw", "given")[0], given)


def test_a_seed_gives_the_same_again_and_another_others(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    first = drawn(sheet)
    sheet.press("draw", "Again")
    assert sheet.view("draw").get_by_label("Seed").input_value() == "1"
    sheet.last_step("draw")
    assert not any(np.array_equal(one, other) for one, other in zip(first, sheet.tiles("draw"), strict=True))
    sheet.view("draw").get_by_label("Seed").fill("0")
    sheet.press("draw", "Draw 20")
    sheet.last_step("draw")
    assert same(first, sheet.tiles("draw"))


def test_without_noise_all_twenty_are_one(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    sheet.view("draw").get_by_label("Temperature").fill("0")
    tiles = drawn(sheet)
    assert all(np.array_equal(tiles[0], other) for other in tiles[1:])


def test_a_held_out_drawing_is_taken(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    wanted = sheet.pixels(sheet.picks("draw").nth(3).locator("canvas").element_handle())
    sheet.take("draw", 3)
    assert np.array_equal(sheet.tiles("draw", "given")[0], wanted), "the model is given its very pixels"
    assert len(sheet.tiles("draw")) == 20


def test_a_finger_draws(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional, has_touch=True, is_mobile=True, viewport={"width": 400, "height": 800})
    paper = sheet.view("draw").locator(".pad canvas")
    box = paper.bounding_box()
    blank = sheet.pixels(paper.element_handle())
    devtools = sheet.page.context.new_cdp_session(sheet.page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in places]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (0.3, 0.2))
    for step in range(1, 9):
        touch("touchMove", (0.3, 0.2 + 0.07 * step))
    touch("touchEnd")
    inked = (sheet.pixels(paper.element_handle()) != blank).any(axis=1).mean()
    assert inked > 0.5, "a stroke down half of the paper: the page did not scroll instead"


def test_keys_alone_do_it(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    keys = sheet.page.keyboard
    reached: list[str] = []

    def tab_to(name: str) -> None:
        for _ in range(40):
            keys.press("Tab")
            label = "e => e.getAttribute('aria-label') ?? e.innerText ?? ''"
            reached.append(sheet.page.locator(":focus").evaluate(label))
            if reached[-1] == name:
                return
        raise AssertionError(f"{name}: not reached by Tab; {reached}")

    tab_to("Paper to draw on")
    keys.press("Space")
    assert sheet.message() == "The pen is down at column 15, row 15."
    for _ in range(8):
        keys.press("ArrowRight")
    keys.press("Space")
    tab_to("Draw 20")
    keys.press("Enter")
    sheet.page.wait_for_selector("#draw .shown", state="visible")
    sheet.settled()
    assert np.count_nonzero(sheet.tiles("draw", "given")[0] < 128) > 0
    assert len(sheet.tiles("draw")) == 20
    assert sheet.page.locator(":focus").inner_text() == "Draw 20", "the focus stays where it was"


def test_undo_and_clear(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    paper = sheet.view("draw").locator(".pad canvas").element_handle()
    blank = sheet.pixels(paper)
    sheet.stroke("draw", *CROSS[0])
    one = sheet.pixels(paper)
    sheet.stroke("draw", *CROSS[1])
    sheet.press("draw", "Undo")
    assert np.array_equal(sheet.pixels(paper), one)
    sheet.press("draw", "Clear")
    assert np.array_equal(sheet.pixels(paper), blank)
    sheet.press("draw", "Draw 20")
    assert sheet.alarm().startswith("The paper is blank")


def test_what_is_pressed_while_the_model_draws_leaves_no_trace(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    picks, paper = sheet.picks("draw"), sheet.view("draw").locator(".pad canvas").element_handle()
    sheet.stroke("draw", *CROSS[0])
    before = sheet.pixels(paper)
    with sheet.kept_waiting("/v1/trace"):
        sheet.click("draw", "Draw 20")
        picks.nth(3).click()
        assert np.array_equal(sheet.pixels(paper), before)
        sheet.page.get_by_role("link", name="Fill in").click()
        sheet.click("fill", "Again")
        assert sheet.view("fill").get_by_label("Seed").input_value() == "0"
    assert sheet.message() == "20 drawings in 4 steps, seed 0."


def test_what_happens_can_be_read_aloud(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    sheet.stroke("draw", *CROSS[0])
    with sheet.kept_waiting("/v1/trace"):
        sheet.click("draw", "Draw 20")
        assert sheet.page.locator("main[aria-busy] #draw").count() == 1
        assert sheet.page.locator("[aria-busy] :is(#message, #alarm)").count() == 0
    for name in ("#message", "#alarm"):  # one of them is empty
        style = "element => getComputedStyle(element).display"
        assert sheet.page.locator(name).evaluate(style) == "block"
    every = sheet.page.locator("output")
    assert every.count() == 3  # two players, a temperature
    assert every.evaluate_all("all => all.every((each) => each.ariaLive === 'off')")


PAPER = """async ([height, width, binary, ink]) => {
  const { Pad } = await import("/static/pad.js");
  const root = document.querySelector("#draw .pad").cloneNode(true);
  const pad = new Pad(root, { height, width, binary }, { say() {} });
  pad.put({ height, width, ink });
  return [pad.view.height, pad.view.width, Array.from(pad.picture.ink)];
}"""


@pytest.mark.parametrize(
    ("shape", "paper"), [((28, 28), (280, 280)), ((8, 6), (280, 210)), ((64, 105), (256, 420))]
)
def test_a_paper_of_any_size_gives_back_what_was_put_on_it(
    conditional: ServeProcess, open_sheet: Open, shape: tuple[int, int], paper: tuple[int, int]
):
    sheet = open_sheet(conditional)
    ink = (np.random.default_rng(0).random(shape) < 0.3).astype(float).ravel().tolist()
    for binary in (True, False):
        height, width, found = sheet.page.evaluate(PAPER, [*shape, binary, ink])
        assert (height, width) == paper
        assert found == ink


def test_the_rubber_rubs_out(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    paper = sheet.view("draw").locator(".pad canvas").element_handle()
    blank = sheet.pixels(paper)
    sheet.stroke("draw", *CROSS[0])
    assert not np.array_equal(sheet.pixels(paper), blank)
    sheet.press("draw", "Rubber")
    sheet.stroke("draw", (0.1, 0.5), (0.9, 0.5))
    assert np.array_equal(sheet.pixels(paper), blank)


def test_saved_files(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    sheet.view("draw").get_by_label("Temperature").fill("0.6")
    drawn(sheet)
    assert sheet.saved("draw", "Save PNG")[0] == "exemplars-seed-0-temperature-0.6.png"
    sheet.view("draw").get_by_label("Temperature").fill("1")
    sheet.press("draw", "Draw 20")
    sheet.last_step("draw")
    name, content = sheet.saved("draw", "Save PNG")
    png = Image.open(io.BytesIO(content)).convert("RGB")
    assert name == "exemplars-seed-0.png"
    gif = sheet.picture("draw", "Save GIF")
    assert gif.n_frames == STEPS
    assert gif.info["loop"] == 0
    assert gif.size == png.size
    gif.seek(STEPS - 1)
    off = np.abs(np.asarray(gif.convert("RGB"), int) - np.asarray(png, int))
    assert off.max() <= 4, "the last frame is the sheet, in the palette's nearest colours"


def test_a_server_that_is_gone_is_said_and_comes_back(characters: Path, open_sheet: Open, tmp_path: Path):
    (port,) = free_ports(1)
    server = ServeProcess(tmp_path, characters, f"--port={port}")
    with server:
        sheet = open_sheet(server)
        before = drawn(sheet)
    sheet.press("draw", "Draw 20")
    assert "does not answer. Start it again" in sheet.alarm()
    assert same(before, sheet.tiles("draw"))
    assert sheet.errors, "the browser logs what it could not reach"
    assert all("ERR_CONNECTION" in error for error in sheet.errors)
    sheet.errors.clear()
    with server:
        sheet.press("draw", "Draw 20")
        sheet.last_step("draw")
        assert sheet.alarm() == ""
        assert same(before, sheet.tiles("draw"))


def test_what_the_server_refuses_is_said_in_its_words(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    sheet.page.route("**/v1/trace", lambda route: route.continue_(post_data='{"context": [[0.5]]}'))
    sheet.stroke("draw", *CROSS[0])
    sheet.press("draw", "Draw 20")
    assert sheet.alarm() == "context: shape [1, 1]; the model takes [28, 28]"
    assert all("422" in error for error in sheet.errors)
    sheet.errors.clear()


def test_a_page_that_is_opened_before_the_model_is_loaded_waits_for_it(
    conditional: ServeProcess, open_sheet: Open
):
    sheet = open_sheet(conditional)
    refused: list[Any] = []

    def loading(route: Any) -> None:
        if len(refused) == 5:
            route.continue_()
        else:
            refused.append(route)
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"error": "no model is loaded yet"})

    sheet.page.route("**/v1/model", loading)
    sheet.page.reload()
    sheet.wait_until(lambda: sheet.message() == "Waiting for the server: no model is loaded yet")
    sheet.page.wait_for_selector("nav a[aria-current]")
    assert len(refused) == 5
    assert sheet.message() == ""
    assert all("503" in error for error in sheet.errors)
    sheet.errors.clear()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"json": {"error": "the server is stopping"}}, "the server is stopping"),
        ({"json": {"message": "no upstream", "error": {"code": 7}}}, "no upstream"),
        ({"json": []}, "The server answered 503."),
        (
            {"content_type": "text/html", "body": "<h1>503</h1>"},
            "The server answered 503 Service Unavailable; look at its log.",
        ),
    ],
    ids=["the server's own", "a gateway's", "of another form", "no JSON"],
)
def test_a_server_that_is_not_available_is_said_and_waited_for_as_long_as_a_request_may_take(
    conditional: ServeProcess, open_sheet: Open, answer: dict[str, Any], why: str
):
    sheet = open_sheet(conditional)
    sheet.told(limits={"seconds": 10})
    sheet.page.route("**/v1/trace", lambda route: route.fulfill(status=503, **answer))
    sheet.stroke("draw", *CROSS[0])
    sheet.click("draw", "Draw 20")
    sheet.wait_until(lambda: sheet.message() == f"Waiting for the server: {why}")
    sheet.settled()
    assert sheet.alarm() == f"{why} (Asked for 10 seconds; repeat it later.)"
    assert len(sheet.errors) > 1, "it was asked again"
    sheet.errors.clear()
    sheet.page.unroute("**/v1/trace")
    sheet.press("draw", "Draw 20")
    assert sheet.message() == "20 drawings in 4 steps, seed 0."


def test_a_model_that_never_comes_is_given_up(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional)
    sheet.page.clock.install()
    sheet.page.route(
        "**/v1/model", lambda route: route.fulfill(status=503, json={"error": "no model is loaded yet"})
    )
    sheet.page.reload()
    sheet.wait_until(lambda: sheet.message() == "Waiting for the server: no model is loaded yet")
    sheet.page.clock.fast_forward(120_000)
    sheet.wait_until(lambda: sheet.alarm())
    assert sheet.alarm() == "no model is loaded yet (Asked for 120 seconds; repeat it later.)"
    sheet.wait_until(lambda: sheet.page.locator("main[aria-busy]").count() == 0)
    sheet.errors.clear()


def test_nothing_moves_by_itself_where_that_is_not_wanted(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional, reduced_motion="reduce")
    sheet.stroke("draw", *CROSS[0])
    sheet.press("draw", "Draw 20")
    assert sheet.view("draw").locator(".player output").inner_text() == "4 of 4"
    assert sheet.view("draw").locator(".player button").inner_text() == "Play"


@pytest.mark.parametrize("view", ["draw", "fill", "game"])
def test_a_phone_does_not_scroll_sideways(conditional: ServeProcess, open_sheet: Open, view: str):
    sheet = open_sheet(conditional, f"#{view}", viewport={"width": 400, "height": 800})
    if view == "draw":
        drawn(sheet)
    if view == "game":
        sheet.press("game", "Begin")
        sheet.page.keyboard.press("ArrowLeft")
        assert sorted(sheet.view("game").locator("figcaption").all_inner_texts()) == [
            "The machine",
            "The program",
        ]
    width = sheet.page.evaluate("document.scrollingElement.scrollWidth")
    assert width <= 400


def test_dark_paper_is_dark_and_what_is_saved_is_white(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional, color_scheme="dark")
    drawn(sheet)
    sheet.wait_until(lambda: np.median(sheet.tiles("draw", "given")[0]) < 64)
    sheet.page.emulate_media(color_scheme="light")
    sheet.wait_until(lambda: np.median(sheet.tiles("draw", "given")[0]) == 255)
    sheet.page.emulate_media(color_scheme="dark")
    light = open_sheet(conditional)
    drawn(light)
    assert sheet.saved("draw", "Save PNG") == light.saved("draw", "Save PNG")
