"""The page and the questions' page below a prefix that the server knows nothing of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.serve_process import ServeProcess
from tests.serving.page.prefixed import Prefixed
from tests.serving.page.sheet import Sheet

pytestmark = pytest.mark.slow


def test_all_of_the_page_is_below_the_prefix(conditional: ServeProcess, open_sheet: Callable[..., Sheet]):
    with Prefixed(conditional) as prefixed:
        sheet = open_sheet(prefixed)
        assert sheet.page.evaluate("getComputedStyle(document.body).margin") == "0px", "it has its style"
        sheet.take("draw", 3)
        assert len(sheet.tiles("draw")) == 20
        sheet.page.get_by_role("link", name="Fill in").click()
        sheet.take("fill", 0)
        sheet.stroke("fill", (0.3, 0.3), (0.7, 0.7))
        sheet.press("fill", "Fill in")
        assert len(sheet.tiles("fill")) == 6
        sheet.page.get_by_role("link", name="Which is the machine's?").click()
        sheet.press("game", "Begin")
        assert sheet.message().startswith("Which grid is the machine's?")
        sheet.page.get_by_role("link", name="The API").click()
        sheet.page.wait_for_url(f"{prefixed.url}/docs")
        assert sheet.page.evaluate("document.styleSheets[0].cssRules.length") > 0
        link = sheet.page.get_by_role("link", name="openapi.json")
        openapi = link.evaluate("link => fetch(link.href).then((answer) => answer.json())")
        assert "/v1/exemplars" in openapi["paths"]
        assert prefixed.strays == []
