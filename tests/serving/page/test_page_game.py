"""The visual Turing test on the page: a round, its score, the CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import numpy as np
import pytest
import requests

from tests.serve_process import WAIT, ServeProcess
from tests.served_models import from_png
from tests.serving.page.sheet import Sheet

pytestmark = pytest.mark.slow
Open = Callable[..., Sheet]


def rows(sheet: Sheet) -> list[dict[str, str]]:
    _, content = sheet.saved("game", "Save the rounds as CSV", "")
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def judged(sheet: Sheet, judge: str, key: str, button: str) -> None:
    """One round, begun with `button` and answered with an arrow key."""
    field = sheet.view("game").get_by_label("Judge")
    if not field.is_visible():
        sheet.view("game").get_by_text("For judges").click()
    field.fill(judge)
    sheet.press("game", button)
    sheet.page.wait_for_selector("#game [data-side=left] button:focus")
    sheet.page.keyboard.press(key)


def test_rounds_are_judged_kept_and_saved(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional, "#game")
    judged(sheet, "=1+1", "ArrowLeft", "Begin")
    judged(sheet, 'A. "B", C', "ArrowRight", "Next round")
    first, second = rows(sheet)
    assert (first["judge"], second["judge"]) == ("'=1+1", 'A. "B", C')
    assert (first["round"], first["answer"], second["round"], second["answer"]) == ("1", "left", "2", "right")
    for row in (first, second):
        assert row["machine"] in ("left", "right")
        assert row["correct"] == str(int(row["machine"] == row["answer"]))
        assert row["model"] == "characters"
        assert row["concept"].startswith("Eval")
        assert float(row["seconds"]) >= 0
    assert (first["held_out_seed"], first["seed"]) != (second["held_out_seed"], second["seed"])
    correct = int(first["correct"]) + int(second["correct"])
    assert f"2 rounds, {correct} right" in sheet.view("game").locator(".score").inner_text()
    sheet.page.reload()
    sheet.page.wait_for_selector("#game .score:not(:empty)")
    assert f"2 rounds, {correct} right" in sheet.view("game").locator(".score").inner_text()
    sheet.view("game").get_by_text("For judges").click()
    sheet.page.once("dialog", lambda dialog: dialog.dismiss())
    sheet.press("game", "Forget them")
    assert len(rows(sheet)) == 2
    sheet.page.once("dialog", lambda dialog: dialog.accept())
    sheet.press("game", "Forget them")
    assert rows(sheet) == []


def test_two_tabs_keep_each_others_rounds(conditional: ServeProcess, open_sheet: Open):
    one = open_sheet(conditional, "#game")
    other = Sheet(one.page.context, conditional.url + "/#game")
    judged(one, "first", "ArrowLeft", "Begin")
    other.wait_until(lambda: other.view("game").locator(".score").inner_text().startswith("1 round,"))
    judged(other, "second", "ArrowLeft", "Begin")
    one.wait_until(lambda: one.view("game").locator(".score").inner_text().startswith("2 rounds,"))
    for sheet in (one, other):
        assert [(row["round"], row["judge"]) for row in rows(sheet)] == [("1", "first"), ("2", "second")]
    assert not other.errors


def test_both_grids_are_black_and_white_and_have_what_it_says(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional, "#game")
    judged(sheet, "", "ArrowLeft", "Begin")
    (row,) = rows(sheet)
    address = f"{conditional.url}/v1/held-out?count=9&seed={row['held_out_seed']}&same=true&format=array"
    found = requests.get(address, timeout=WAIT).json()
    side = {"left": "right", "right": "left"}[row["machine"]]
    grid = sheet.view("game").locator(f"[data-side={side}]")
    shown = [sheet.pixels(canvas) for canvas in grid.locator("canvas").element_handles()]
    assert grid.locator("figcaption").inner_text() == "The program"
    for tile, drawing in zip(shown, found["drawings"], strict=True):
        assert np.array_equal(ink(tile), np.array(drawing) > 0.5)
    asked = {"context": found["context"], "samples": 9, "seed": int(row["seed"])}
    means = [from_png(image) for image in conditional.post("/v1/exemplars", asked).json()["images"]]
    machine = sheet.view("game").locator(f"[data-side={row['machine']}] canvas").element_handles()
    for canvas, mean in zip(machine, means, strict=True):
        tile = sheet.pixels(canvas)
        assert set(np.unique(tile)) == {16, 255}
        assert ink(tile).sum() == round(mean.sum()), "as much ink as the mean has"
        assert mean[ink(tile)].min() >= mean[~ink(tile)].max(), "where it has most"


@pytest.mark.parametrize(
    ("source", "makers"),
    [
        ("omniglot", "drawings of the character by people."),
        ("omniglot-strokes", "drawings of the character by a program that stands in for people."),
        ("folder", "drawings of the character by whoever drew the held-out set."),
    ],
)
def test_the_rules_say_who_drew_and_that_the_model_has_not_seen_it_only_where_that_is_known(
    conditional: ServeProcess, open_sheet: Open, source: str, makers: str
):
    sheet = open_sheet(conditional, "#game")
    rules = sheet.view("game").locator("[data-part=rules]")
    for unseen in (True, False):
        sheet.told(held_out={"source": source, "unseen": unseen})
        text = " ".join(rules.inner_text().split())
        assert makers in text
        assert ("None of these drawings was in its training" in text) == unseen


def ink(tile: np.ndarray) -> np.ndarray:
    """Which of the model's pixels are ink on a tile."""
    scale = len(tile) // 28
    return tile[scale // 2 :: scale, scale // 2 :: scale] < 128


def test_a_judge_is_told_nothing_where_that_is_wanted(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional, "#game")
    sheet.view("game").get_by_text("For judges").click()
    sheet.view("game").get_by_label("Say after each round who drew which").uncheck()
    judged(sheet, "blind", "ArrowLeft", "Begin")
    assert sheet.view("game").locator(".verdict").inner_text() == "Your answer is noted."
    assert sheet.view("game").locator("figcaption").all_inner_texts() == ["", ""]
    assert sheet.view("game").locator(".score").inner_text() == "1 round."


def test_one_answer_a_round(conditional: ServeProcess, open_sheet: Open):
    sheet = open_sheet(conditional, "#game")
    judged(sheet, "", "Control+ArrowRight", "Begin")
    sheet.page.keyboard.press("Meta+ArrowRight")  # the browser's own
    assert rows(sheet) == []
    sheet.page.keyboard.press("ArrowLeft")
    sheet.page.keyboard.press("ArrowRight")
    assert [row["answer"] for row in rows(sheet)] == ["left"]
