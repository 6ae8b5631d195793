"""What is remembered of a recipe's retrainings: the last one, by which the next is due, and the failures in a row.

Periods are spans of UTC counted from 1970: those of a day begin at 00:00 UTC, in summer and in winter, and a clock that
was put back a little stands in a period that is used up.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pipelines.artifacts.places import state_root
from pipelines.cluster.storage import shared, storage_root
from pipelines.storage import Store, open_store
from seqgen.core.errors import BadInput, OperationalError

Outcome = Literal["running", "done", "failed", "stopped"]
_LAST, _FAILURES = "last.json", "failures.json"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str, option: str) -> int:
    """The seconds of a span such as 90s, 30m, 12h or 1d. Raises BadInput naming `option`."""
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if match is None:
        raise BadInput(f"{option} {text}: write a number and s, m, h or d, as in 12h or 1d")
    return int(match[1]) * _SECONDS[match[2]]


def remembered_in(recipe: str) -> Store:
    """Where a recipe's retrainings are written down: in the shared storage, else in this machine's state."""
    return open_store(f"{storage_root() if shared() else state_root()}/retrain/{recipe}")


@dataclass
class Record:
    """Reads and writes what is remembered in `store`; every call raises what the store raises."""

    store: Store
    _began: float | None = None  # what `begin` wrote

    def not_due(self, period: int) -> str:
        """Why no retraining is due now, empty if one is: one of this period was begun and came to an end.

        One that was stopped or killed is gone on with. Raises OperationalError if the last one was begun in a
        period that is still to come, which no clock that is right can say.
        """
        last = self._last()
        if last is None or last[1] in ("running", "stopped"):
            return ""
        (began, outcome), now = last, time.time()
        if began > now + period:
            raise OperationalError(
                f"{self.store.root}/{_LAST}: the last retraining began at {shown(began)}, which is still to come: "
                "a clock is or was wrong; correct it, and remove that file if it was that of then"
            )
        following = (began // period + 1) * period
        if now >= following:
            return ""
        return f"retrained at {shown(began)} ({outcome}); the next period begins at {shown(following)}"

    def interrupted(self) -> str:
        """When a retraining was begun that never said how it ended; empty if there is none."""
        last = self._last()
        return shown(last[0]) if last and last[1] == "running" else ""

    def begin(self) -> None:
        """A retraining begins now."""
        self._began = time.time()
        self._write(_LAST, {"began": self._began, "outcome": "running"})

    def end(self, outcome: Outcome) -> None:
        """The retraining that was begun here, if one was, ended like this; one that took over has its own."""
        if self._began is not None and self._last() == (self._began, "running"):
            self._write(_LAST, {"began": self._began, "outcome": outcome, "ended": time.time()})

    def give_up(self) -> None:
        """One that never said how it ended was heard of: it is gone on with, and is not `interrupted` any more."""
        last = self._last()
        if last is not None and last[1] == "running":
            self._write(_LAST, {"began": last[0], "outcome": "stopped"})

    def count_failure(self, message: str) -> int:
        """How many there are in a row, with this one."""
        before = self._read(_FAILURES, "in_a_row")
        count = int(before["in_a_row"]) + 1 if before else 1
        self._write(_FAILURES, {"in_a_row": count, "last": message, "at": time.time()})
        return count

    def forget_failures(self) -> None:
        """It went well: the next failure is the first one."""
        self.store.delete([_FAILURES])

    def _last(self) -> tuple[float, Outcome] | None:
        """When the last retraining was begun, and how it ended."""
        value = self._read(_LAST, "began", "outcome")
        return None if value is None else (float(value["began"]), value["outcome"])

    def _read(self, name: str, *keys: str) -> dict[str, Any] | None:
        content = self.store.read(name, anyones=True)
        try:
            return None if content is None else {key: json.loads(content)[key] for key in keys}
        except (ValueError, TypeError, KeyError) as error:
            raise OperationalError(f"{self.store.root}/{name}: damaged ({error}); remove it") from error

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        self.store.write(name, (json.dumps(value, ensure_ascii=False) + "\n").encode())


def shown(moment: float) -> str:
    """A moment as people read it, in UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
