"""Where the runs of Ray Train and Ray Tune lie, and what their driver keeps beside the checkpoints to go on."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from pipelines.artifacts.places import state_root
from pipelines.storage import Store, open_store
from pipelines.storage.lease import Lease, Lost, leased
from seqgen.core.errors import BadInput, OperationalError, SeqgenError, changes
from seqgen.core.locks import Taken, held

LEASE_SECONDS = 60.0
_PATIENCE = 5.0  # seconds for a storage that does not answer, at an end
_STATE, _COMPLETE, _SETTINGS = "seqgen-run.json", "seqgen-complete.json", "seqgen-settings.json"


def storage_root() -> str:
    """SEQGEN_STORAGE (an absolute path or s3://bucket/prefix), else `ray` under `state_root()`.

    Raises BadInput for another kind of address.
    """
    root = (os.environ.get("SEQGEN_STORAGE") or str(state_root() / "ray")).rstrip("/")
    try:
        open_store(root)
    except BadInput:
        raise BadInput(f"SEQGEN_STORAGE={root}: give an absolute path or s3://<bucket>/<prefix>") from None
    return root


def shared() -> bool:
    """Whether SEQGEN_STORAGE names a place that other machines may use too."""
    return bool(os.environ.get("SEQGEN_STORAGE"))


@dataclass(frozen=True)
class RunStorage:
    """One run of Ray Train or Ray Tune: `root`/`name` has its checkpoints and some small files of ours.

    What is written there is written under the `lease`, if there is one: every such call raises Lost without it.
    """

    root: str
    name: str
    lease: Lease | None = None

    @classmethod
    @contextlib.contextmanager
    def claim(
        cls,
        name: str,
        settings: Mapping[str, Any] | None = None,
        goes_on: Callable[[Mapping[str, Any]], bool] | None = None,
        fresh: bool = False,
    ) -> Iterator[RunStorage]:
        """The run `name` to go on with, or to start, in `storage_root()`, while no other process can have it.

        It is one of these `settings`, which are written down. `goes_on` says of what a finished run was marked with
        whether it is gone on with all the same, `fresh` that none is.
        Raises OperationalError if another process has it, of this machine or of another that shares the storage,
        BadInput if it is one of other settings, with the differences, StoppedEarly once another took it over.
        """
        root, lock = storage_root(), state_root() / "locks" / f"{name}.lock"
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(held(lock))
                lease = None
                if shared():
                    # Not among the run's own files, of which a search has very many.
                    leases = open_store(f"{root}/leases/{name}")
                    lease = stack.enter_context(leased(leases, LEASE_SECONDS, lock))
            except Taken as taken:
                raise OperationalError(
                    f"run {name} in {root} is being worked on by another process ({taken.holder}): wait for it to end, "
                    "or stop it there"
                ) from None
            run = replace(cls.unfinished(root, name, settings, goes_on, fresh), lease=lease)
            if settings is not None:
                run._write(_SETTINGS, dict(settings))
            yield run

    @classmethod
    def unfinished(
        cls,
        root: str,
        name: str,
        settings: Mapping[str, Any] | None = None,
        goes_on: Callable[[Mapping[str, Any]], bool] | None = None,
        fresh: bool = False,
    ) -> RunStorage:
        """The run `name`, or `name`-2, `name`-3, ... if the ones before are complete; see `claim`.

        A run that did not finish is gone on with; a finished one is left as it is.
        """
        for number in count(1):
            run = cls(root, name if number == 1 else f"{name}-{number}")
            complete, begun = run._read(_COMPLETE), run.state()
            if fresh and begun:
                if complete is None:
                    run.complete({"abandoned": True})
                continue
            if settings is not None and begun:  # what was claimed and never begun is nobody's
                run._refuse_others(settings)
            if complete is None or (goes_on is not None and goes_on(complete)):
                return run
        raise AssertionError

    @property
    def store(self) -> Store:
        """What it lies in."""
        return open_store(self.root)

    def state(self) -> dict[str, Any]:
        """What was kept by `keep`; empty for a new run."""
        return self._read(_STATE) or {}

    def keep(self, state: dict[str, Any]) -> None:
        """Write down what is needed to go on with the run."""
        self._write(_STATE, state)

    def complete(self, about: dict[str, Any]) -> None:
        """Mark the run as finished: the last thing written."""
        self._write(_COMPLETE, about)

    def is_ours(self) -> bool:
        """Whether no other process has taken it over, as far as can be known within a few seconds."""
        lost = threading.Event()

        def look() -> None:
            try:
                self._check()
            except Lost:
                lost.set()
            except SeqgenError:
                pass

        looking = threading.Thread(target=look, name="lease-look", daemon=True)
        looking.start()
        looking.join(_PATIENCE)
        return not lost.is_set()

    def note(self, name: str, value: Any) -> str:
        """Write something down for people; returns where."""
        self._write(name, value)
        return f"{self.root}/{self.name}/{name}"

    def files(self) -> list[str]:
        """The names of the files directly in it."""
        names = (key.removeprefix(f"{self.name}/") for key in self.store.list(f"{self.name}/"))
        return [name for name in names if "/" not in name]

    def read_file(self, name: str) -> bytes:
        """One of those, whoever wrote it; empty if it is gone."""
        return self.store.read(f"{self.name}/{name}", anyones=True) or b""

    def set_aside(self, name: str) -> None:
        """Give the file another name, `name`.damaged."""
        self._check()
        self.store.write(f"{self.name}/{name}.damaged", self.read_file(name))
        self.store.delete([f"{self.name}/{name}"])

    def _refuse_others(self, settings: Mapping[str, Any]) -> None:
        before = self._read(_SETTINGS)
        if before is not None and (changed := changes(before, json.loads(json.dumps(settings)))):
            raise BadInput(
                f"run {self.name} is one of other settings: {'; '.join(changed)}. "
                "Choose another --name, or start anew under this one with --force-new"
            )

    def _read(self, name: str) -> dict[str, Any] | None:
        content = self.store.read(f"{self.name}/{name}")
        if content is None:
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise OperationalError(f"{self.root}/{self.name}/{name}: damaged ({error}); delete it") from error

    def _check(self) -> None:
        if self.lease is not None:
            self.lease.check()

    def _write(self, name: str, value: Any) -> None:
        self._check()
        self.store.write(f"{self.name}/{name}", json.dumps(value).encode())
