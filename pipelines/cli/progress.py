"""Long work as a person sees it: lines that stay and, on a terminal, bars with rate and time left below them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from pipelines.artifacts.history import Row
from pipelines.cli.signals import check_stop

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Display:
    """A context: within it `say` and `at` show where work stands, counted in `unit` ("images", "bytes")."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._quarters: dict[str, int] = {}

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            self._bars = _bars(self._unit)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bars is not None:
            self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def at(self, name: str, done: float, total: float | None) -> None:
        """`done` of `total` (None: unknown) is done of `name`: its bar, or elsewhere a line at each quarter."""
        if self.bar(name, done, total) or not total:
            return
        quarter = int(4 * done // total)
        if self._quarters.get(name, 0) < quarter < 4:
            print(f"{name}: {25 * quarter} %", flush=True)
        self._quarters[name] = quarter

    def bar(self, name: str, done: float, total: float | None) -> bool:
        """Set the bar of `name`, which goes when all is done; False if there are no bars here."""
        if self._bars is None:
            return False
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], completed=done, total=total, visible=done != total)
        return True

    def counter(self, name: str, total: float) -> Callable[[float], None]:
        """What to call with how much more of `name` is done, instead of `at`; a stop that was asked for comes then."""
        done = 0.0
        self.at(name, done, total)

        def advance(more: float) -> None:
            nonlocal done
            check_stop()
            done += more
            self.at(name, done, total)

        return advance


def _bars(unit: str) -> Progress:
    from rich import progress
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            return Text(f"{task.speed:,.1f} {unit}/s" if task.speed else "")

    amount: tuple[progress.ProgressColumn, ...] = (progress.MofNCompleteColumn(), Rate())
    if unit == "bytes":
        amount = (progress.DownloadColumn(), progress.TransferSpeedColumn())
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), *amount)
    # rich forgets what is older than the period, and an epoch may take minutes.
    return progress.Progress(
        *columns, progress.TimeRemainingColumn(), transient=True, speed_estimate_period=3600
    )


class TrainingDisplay(Display):
    """A training of `epochs`: a line an epoch; `objective` is the held-out metric in nats per image."""

    def __init__(self, epochs: int, objective: str) -> None:
        super().__init__("epochs")
        self._epochs, self._lines = epochs, EpochLines(epochs, objective)

    def __enter__(self) -> Self:
        super().__enter__()
        self.bar("training", 0, self._epochs)
        return self

    def epoch(self, row: Row) -> None:
        """An epoch is done."""
        self.say(self._lines.line(row))
        self.bar("training", row["epoch"], self._epochs)


class EpochLines:
    """The line of each epoch of a run of `epochs`; `objective` is the held-out metric in nats per image."""

    def __init__(self, epochs: int, objective: str) -> None:
        self._epochs, self._objective = epochs, objective
        self._seconds: list[float] = []

    def line(self, row: Row) -> str:
        """The epoch's line; the time left is from the epochs seen so far, the latest ten."""
        self._seconds = [*self._seconds[-9:], row["seconds"]]
        left = (self._epochs - row["epoch"]) * sum(self._seconds) / len(self._seconds)
        bound = row.get(self._objective)
        held_out = f"{bound:9.2f}" if bound is not None else "        -"
        kl = f"KL {row['train/kl']:7.2f}  " if "train/kl" in row else ""  # an objective need not have one
        return (
            f"epoch {row['epoch']:>{len(str(self._epochs))}.0f}/{self._epochs}  held-out {held_out} nats  "
            f"train {row['train/free_energy']:9.2f}  {kl}"
            f"{row['images_per_second']:7.0f} images/s  {clock(left)} left"
        )


def clock(seconds: float) -> str:
    """Seconds as 1h02m, 2m05s or 7s."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"
