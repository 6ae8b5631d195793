"""Training as a person sees it: a line an epoch, and on a terminal a bar with the time left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.artifacts.history import Row

if TYPE_CHECKING:
    from rich.progress import Progress


class EpochLines:
    """One line for each epoch of a run of `epochs`; `objective` is the held-out metric in nats per image."""

    def __init__(self, epochs: int, objective: str) -> None:
        self._epochs, self._objective = epochs, objective
        self._seconds: list[float] = []

    def line(self, row: Row) -> str:
        """The epoch's line; the time left is from the epochs seen so far, the latest ten."""
        self._seconds = [*self._seconds[-9:], row["seconds"]]
        left = (self._epochs - row["epoch"]) * sum(self._seconds) / len(self._seconds)
        bound = row.get(self._objective)
        held_out = f"{bound:9.2f}" if bound is not None else "        -"
        return (
            f"epoch {row['epoch']:>{len(str(self._epochs))}.0f}/{self._epochs}  held-out {held_out} nats  "
            f"train {row['train/free_energy']:9.2f}  KL {row['train/kl']:7.2f}  "
            f"{row['images_per_second']:7.0f} images/s  {clock(left)} left"
        )


def clock(seconds: float) -> str:
    """Seconds as 1h02m, 2m05s or 7s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


class Display:
    """Where the lines go. On a terminal a bar stands below them."""

    def __init__(self, epochs: int, objective: str) -> None:
        self._lines, self._epochs = EpochLines(epochs, objective), epochs
        self._bar: Progress | None = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[Display]:
        """Show the bar, if standard output is a terminal."""
        if not sys.stdout.isatty():
            yield self
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        with Progress(TextColumn("training"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()) as bar:
            self._bar, self._task = bar, bar.add_task("training", total=self._epochs)
            yield self

    def say(self, text: str) -> None:
        """A plain line."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def epoch(self, row: Row) -> None:
        """An epoch is done."""
        self.say(self._lines.line(row))
        if self._bar is not None:
            self._bar.update(self._task, completed=row["epoch"])
