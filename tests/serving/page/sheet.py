"""What a person does on the page and sees of it, by Playwright."""

from __future__ import annotations

import base64
import contextlib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

WAIT = 120_000  # milliseconds, at most, for whatever the page does


class Sheet:
    """The page in a browser context of its own. `close` fails if the page logged an error that was not expected."""

    def __init__(self, context: Any, url: str) -> None:
        context.set_default_timeout(WAIT)
        self._context = context
        self.page = context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self._logged(line.type, line.text))
        self.page.goto(url)
        self.page.wait_for_selector("nav a[aria-current]")

    def close(self) -> None:
        """End it."""
        self._context.close()
        assert not self.errors

    def view(self, name: str) -> Any:
        """The part of the page that `#name` shows."""
        return self.page.locator(f"#{name}")

    def stroke(self, view: str, *points: tuple[float, float]) -> None:
        """Draw with the mouse through points of the paper, in shares of its width and height."""
        paper = self.view(view).locator(".pad canvas")
        paper.scroll_into_view_if_needed()
        box = paper.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=8)
        self.page.mouse.up()

    def press(self, view: str, name: str) -> None:
        """Press a button by the words on it and wait until the page has done what it does."""
        self.click(view, name)
        self.settled()

    def click(self, view: str, name: str) -> None:
        """Press a button by the words on it."""
        self.view(view).get_by_role("button", name=name, exact=True).click()

    @contextlib.contextmanager
    def kept_waiting(self, path: str) -> Iterator[None]:
        """Requests to `path` are sent to the server at the end."""
        held: list[Any] = []
        self.page.route(f"**{path}", lambda route: held.append(route))
        yield
        self.wait_until(lambda: held)
        for route in held:
            route.continue_()
        self.page.unroute(f"**{path}")
        self.settled()

    def take(self, view: str, number: int, count: int = 12) -> None:
        """Press a held-out drawing, from 0, of the `count` that are offered, and wait."""
        self.picks(view, count).nth(number).click()
        self.settled()

    def told(self, **changes: Any) -> None:
        """Load the page again, told otherwise of the model; of an object those fields that are named."""

        def answered(route: Any) -> None:
            response = route.fetch()
            found = response.json()
            for name, value in changes.items():
                both = isinstance(value, dict) and isinstance(found.get(name), dict)
                found[name] = {**found[name], **value} if both else value
            route.fulfill(response=response, json=found)

        self.page.route("**/v1/model", answered)
        self.page.reload()
        self.page.wait_for_selector("nav a[aria-current]")
        self.settled()

    def picks(self, view: str, count: int = 12) -> Any:
        """The buttons of so many held-out drawings, once they are there."""
        details = self.view(view).locator("[data-part=picker]")
        if details.get_attribute("open") is None:
            details.locator("summary").click()
        buttons = details.locator(".picks button")
        buttons.nth(count - 1).wait_for()
        self.settled()
        assert buttons.count() == count
        return buttons

    def settled(self) -> None:
        """Wait until nothing is asked of the server."""
        self.page.wait_for_selector("main:not([aria-busy])")

    def wait_until(self, seen: Callable[[], object]) -> None:
        """Wait for what the page does on its own time."""
        end = time.monotonic() + WAIT / 1000
        while not seen():
            assert time.monotonic() < end
            self.page.wait_for_timeout(50)

    def last_step(self, view: str, part: str = "result") -> int:
        """Move the slider to its end; its number of steps."""
        return self.step(view, None, part)

    def step(self, view: str, number: int | None, part: str = "result") -> int:
        """Move the slider to a step, from 1, or to the last; its number of steps."""
        slider = self.view(view).locator(f"[data-part={part}] input[type=range]")
        most = int(slider.get_attribute("max"))
        slider.fill(str(number or most))
        return most

    def tiles(self, view: str, part: str = "tiles") -> list[np.ndarray]:
        """The grey of every tile of a grid, as it is seen, uint8 [H,W]."""
        canvases = self.view(view).locator(f"[data-part={part}] canvas")
        return [_grey(url) for url in canvases.evaluate_all("all => all.map((canvas) => canvas.toDataURL())")]

    def pixels(self, canvas: Any) -> np.ndarray:
        """The grey of a canvas, uint8 [H,W]."""
        return _grey(canvas.evaluate("canvas => canvas.toDataURL()"))

    def saved(self, view: str, name: str, part: str = "result") -> tuple[str, bytes]:
        """Press a button that saves a file: its name and content."""
        scope = self.view(view).locator(f"[data-part={part}]") if part else self.view(view)
        with self.page.expect_download() as download:
            scope.get_by_role("button", name=name, exact=True).click()
        return download.value.suggested_filename, download.value.path().read_bytes()

    def picture(self, view: str, name: str, part: str = "result") -> Image.Image:
        """The same, as a picture."""
        return Image.open(io.BytesIO(self.saved(view, name, part)[1]))

    def message(self) -> str:
        """What the page says."""
        return self.page.locator("#message").inner_text()

    def alarm(self) -> str:
        """What the page warns of."""
        return self.page.locator("#alarm").inner_text()

    def _logged(self, kind: str, text: str) -> None:
        if kind == "error":
            self.errors.append(text)


def _grey(url: str) -> np.ndarray:
    """The red channel of a PNG as a data URL."""
    content = base64.b64decode(url.partition(",")[2])
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))[..., 0]
