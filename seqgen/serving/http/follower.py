"""The model that a name stands for, loaded and kept up with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from seqgen.core.errors import BadInput, SeqgenError, one_line
from seqgen.serving.http.served import load_source, newest
from seqgen.serving.http.service import Service

_LONGEST = 366 * 86_400  # seconds
_log = logging.getLogger(__name__)


class Follower:
    """Loads `source` into `service`, then looks every so many `seconds` (0: never) whether it names another version.

    That is loaded and tried beside the one that is served, and takes its place between two requests. One that cannot
    be had is refused with a line in the log, and tried again at the next look. If the first one cannot be had,
    `failed` is called, and `error` says why. Raises BadInput for `seconds` that are no time to wait.
    """

    def __init__(
        self, source: str, service: Service, seconds: float, failed: Callable[[], None] = lambda: None
    ) -> None:
        if not 0 <= seconds <= _LONGEST:
            raise BadInput(
                f"follow_seconds={seconds}: give seconds from 0, which is never, to {_LONGEST}, a year"
            )
        self._source, self._service, self._seconds, self._failed = source, service, seconds, failed
        self._refused: str | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Load, and follow what can change; for a thread of its own."""
        try:
            self.load()
        except BaseException as error:
            self.error = error
            self._failed()
            return
        self.follow()

    def load(self) -> None:
        """Take over what `source` names. Raises as `load_source`."""
        served = load_source(self._source)
        self._service.served = served
        _log.info("serving %s (%s parameters)", served.title, f"{served.parameters:,}")
        drawings = self._service.held_out_of(served)
        if drawings is not None and (doubt := drawings.doubt(served)):
            _log.warning("warning: %s", doubt)

    def follow(self) -> None:
        """Look again and again, if what `source` names can change; for a thread of its own."""
        while self._seconds and self._source.startswith("models:") and "@" in self._source:
            time.sleep(self._seconds)
            self.look()

    def look(self) -> None:
        """Take over what `source` names, if that is another version than the one that is served."""
        wanted = None
        try:
            wanted, served = newest(self._source), self._service.served
            if served is None or wanted != served.version:
                self.load()
        except Exception as error:  # whatever is wrong with it, the old one goes on
            self._refuse(f"version {wanted}" if wanted else self._source, error)
        else:
            self._refused = None

    def _refuse(self, what: str, error: Exception) -> None:
        """Say once why it is not taken over."""
        if what != self._refused:
            why = (
                str(error) if isinstance(error, SeqgenError) else f"{type(error).__name__}: {one_line(error)}"
            )
            kept = self._service.served.title if self._service.served else "nothing"
            _log.warning("%s is still served: %s: %s", kept, what, why)
        self._refused = what
