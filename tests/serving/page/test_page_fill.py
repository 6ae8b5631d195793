"""A conditional model fills in: what it is given to draw by is what belongs to the paper."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.serve_process import ServeProcess
from tests.serving.page.sheet import Sheet

pytestmark = pytest.mark.slow
Open = Callable[..., Sheet]


def given(sheet: Sheet) -> tuple[np.ndarray, np.ndarray, str]:
    """Have a part filled in: the picture and the context that the server was sent, and what the page says of them."""
    sheet.press("fill", "Rub out")
    sheet.stroke("fill", (0.7, 0.2), (0.7, 0.8))
    with sheet.page.expect_request("**/v1/impute") as asked:
        sheet.press("fill", "Fill in")
    sent = asked.value.post_data_json
    caption = sheet.view("fill").locator("[data-part=caption]").inner_text()
    return np.array(sent["x"]), np.array(sent["context"]), caption


def companion(server: ServeProcess, seed: int) -> np.ndarray:
    """The other drawing of the character of which the picker offers twelve."""
    path = f"/v1/held-out?count=12&seed={seed}&same=true&format=array"
    return np.array(server.get(path).json()["context"])


def test_another_persons_drawing_goes_and_comes_back_with_its_character(
    conditional: ServeProcess, open_sheet: Open
):
    sheet = open_sheet(conditional, "#fill")
    sheet.picks("fill")
    sheet.take("fill", 2)
    _, context, caption = given(sheet)
    assert np.array_equal(context, companion(conditional, 0))
    assert "another drawing of the character" in caption
    sheet.press("fill", "Others")
    sheet.take("fill", 5)
    _, context, _ = given(sheet)
    assert np.array_equal(context, companion(conditional, 1))
    for _ in range(2):  # the stroke, and the second drawing
        sheet.press("fill", "Undo")
    _, context, _ = given(sheet)
    assert np.array_equal(context, companion(conditional, 0))
    sheet.press("fill", "Clear")
    sheet.press("fill", "Pen")
    sheet.stroke("fill", (0.2, 0.2), (0.8, 0.8))
    left, context, caption = given(sheet)
    assert np.array_equal(context, left)
    assert "What is left was also what it was given" in caption
