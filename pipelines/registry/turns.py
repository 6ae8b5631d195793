"""Taking turns to move a model's aliases, across machines, by nothing but tags of the registered model.

MLflow's registry has no compare-and-set and no lock. What it has are registers: a tag is written and read as one. Of
those Lamport's bakery algorithm (CACM 17(8), 1974) makes mutual exclusion: who wants a turn writes a ticket with the
number 0 (choosing), reads the others', writes one more than the largest, and waits until no ticket is before his.

A holder writes his ticket anew while he works, however long the registry takes for that, and one that died leaves his
behind. What has not been written anew for `LEASE` seconds, by the clock of the one who waits for it, is declared void
by a tag that nobody ever takes back, so that a holder who was only frozen learns of it: he asks, immediately before he
moves an alias, whether his ticket still counts. What is left is a process that is frozen for longer than half the
lease between that question and the request that follows it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.tracking import runs
from seqgen.core.errors import OperationalError

if TYPE_CHECKING:
    from mlflow import MlflowClient

LEASE = 60.0  # seconds after which a ticket that is not written anew is a dead process's
PATIENCE = 600.0  # seconds that one waits for his turn
_EVERY = 0.5  # seconds from one look at the others' tickets to the next
_TICKET, _VOID = "seqgen.turn.", "seqgen.turn-void."


class Turn:
    """One's own ticket for the model `name`; `turn` draws it and tears it up."""

    def __init__(self, client: MlflowClient, name: str) -> None:
        self._client, self._name, self._id = client, name, uuid.uuid4().hex
        self._number = 0
        self._written = 0.0

    def wait(self) -> None:
        """Draw a ticket and return when no other is before it. Raises OperationalError and MLflow's errors."""
        self._written = self._write()
        tickets, _ = self._read()
        self._number = 1 + max(number for number, _ in tickets.values())
        self._written = self._write()
        deadline = time.monotonic() + PATIENCE
        seen: dict[str, tuple[str, float]] = {}
        while before := self._before():
            now = time.monotonic()
            if now > deadline:
                raise OperationalError(
                    f"{self._name}: no turn to move its aliases in {PATIENCE:.0f} s ({min(before.values())} is "
                    "before us); try again"
                )
            for other, text in before.items():
                if seen.get(other, ("", 0.0))[0] != text:
                    seen[other] = (text, now)
                elif now - seen[other][1] > LEASE:
                    self._declare_void(other)
            time.sleep(_EVERY)
            self._written = self._write()

    def _declare_void(self, other: str) -> None:
        """Others may be at it too, and of two who write one tag at once the server refuses one: look again then."""
        with contextlib.suppress(*runs.server_errors()):
            self._client.set_registered_model_tag(self._name, _VOID + other, f"by {_me()}")
            self._client.delete_registered_model_tag(self._name, _TICKET + other)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """While the block works the ticket is written anew, in a thread: its requests may be many, and slow."""
        done = threading.Event()

        def work() -> None:
            while not done.wait(max(self._written + LEASE / 6 - time.monotonic(), _EVERY)) and self._renew():
                pass

        thread = threading.Thread(target=work, name="registry-turn", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()  # or the ticket could come back after it was torn up

    def check(self) -> None:
        """Raise OperationalError unless the turn is still ours: ask before anything that cannot be taken back."""
        if self.lost() or self._old():
            raise OperationalError(
                f"{self._name}: our turn to move its aliases passed before we were done (the registry took longer "
                f"than {LEASE / 8:.0f} s for a request, or this process was stopped); nothing was moved; try again"
            )

    def lost(self) -> bool:
        """Whether another took the turn over, because ours was not given up within the lease."""
        return self._id in self._read()[1]

    def tear(self) -> None:
        """Give the turn up; a registry that does not answer now makes the others wait for the lease."""
        with contextlib.suppress(*runs.server_errors()):
            self._client.delete_registered_model_tag(self._name, _TICKET + self._id)
            self._client.delete_registered_model_tag(self._name, _VOID + self._id)

    def _renew(self) -> bool:
        """Write the ticket anew; False if that came so late that others may be about to declare it void."""
        if self._old():
            return False
        try:
            began = self._write()
        except runs.server_errors():
            return True  # it may answer next time
        if self._old():
            return False
        self._written = began
        return True

    def _old(self) -> bool:
        return time.monotonic() - self._written > LEASE / 2

    def _write(self) -> float:
        """Write the ticket, for which MLflow's client makes two requests; when that began."""
        began = time.monotonic()
        text = f"{self._number} {_me()} at {datetime.now(UTC).isoformat()}"
        self._client.set_registered_model_tag(self._name, _TICKET + self._id, text)
        return began

    def _read(self) -> tuple[dict[str, tuple[int, str]], set[str]]:
        """The number and text of every ticket by its id, and the ids of those that are void."""
        tags = self._client.get_registered_model(self._name).tags
        tickets = {
            key.removeprefix(_TICKET): (int(text.split()[0]), text)
            for key, text in tags.items()
            if key.startswith(_TICKET)
        }
        return tickets, {key.removeprefix(_VOID) for key in tags if key.startswith(_VOID)}

    def _before(self) -> dict[str, str]:
        """The texts of the tickets that are before ours, by id. Raises OperationalError if ours is void."""
        tickets, void = self._read()
        if self._id in void:  # stopped for longer than the lease, while waiting
            self.check()
        ours = (self._number, self._id)
        return {
            other: text
            for other, (number, text) in tickets.items()
            if other not in void and (number, other) < ours
        }


@contextlib.contextmanager
def turn(client: MlflowClient, name: str) -> Iterator[Turn]:
    """Hold this to move the aliases of model `name`: a request may take seconds here, not minutes.

    Raises OperationalError if there is no turn within `PATIENCE` seconds, and MLflow's errors.
    """
    ours = Turn(client, name)
    with runs.short_retries():
        try:
            ours.wait()
            with ours.kept():
                yield ours
        finally:
            ours.tear()


def _me() -> str:
    return f"pid {os.getpid()} on {platform.node()}"
