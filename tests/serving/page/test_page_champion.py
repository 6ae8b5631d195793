"""Another model takes over while the page is open: the page tells its name, or asks to be loaded again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.free_ports import free_ports
from tests.serve_process import ServeProcess
from tests.served_models import saved
from tests.serving.page.sheet import Sheet

pytestmark = pytest.mark.slow


def test_the_page_tells_who_draws_now_and_does_not_draw_with_what_it_does_not_suit(
    characters: Path, open_sheet: Callable[..., Sheet], tmp_path: Path
):
    (port,) = free_ports(1)
    others = saved(tmp_path / "others", (28, 28), conditional=True, steps=4)
    longer = saved(tmp_path / "longer", (28, 28), conditional=True, steps=5)
    smaller = saved(tmp_path / "smaller", (8, 6), conditional=True, steps=4)

    def serving(model: Path) -> ServeProcess:
        return ServeProcess(tmp_path, model, f"--port={port}")

    with serving(characters) as server:
        sheet = open_sheet(server)
        about = sheet.page.locator("#about")
        assert about.inner_text().startswith("characters: 28 ")
        sheet.stroke("draw", (0.2, 0.5), (0.8, 0.5))
        sheet.press("draw", "Draw 20")
    with serving(others):
        sheet.press("draw", "Draw 20")
        assert sheet.alarm() == ""
        assert about.inner_text().startswith("others: 28 ")
        assert sheet.page.title() == "seqgen: others"
        sheet.last_step("draw")
        drawn = sheet.tiles("draw")
    for model in (longer, smaller):
        with serving(model):
            for _ in range(2):
                sheet.press("draw", "Draw 20")
                assert sheet.alarm() == "Another model is served now; load the page again."
    assert all(np.array_equal(one, other) for one, other in zip(drawn, sheet.tiles("draw"), strict=True))
    assert sheet.errors, "a drawing of 28 x 28 was refused"
    assert all("422" in error for error in sheet.errors)
    sheet.errors.clear()
