"""What Tune saved of a search, which it writes in place: a kill, or a full disk, leaves the newest half-written."""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import sys

from pipelines.cluster.storage import RunStorage
from seqgen.core.errors import OperationalError

# Of each session, named by when it began: the trials, what the searcher knows, what the callbacks know.
_TRIALS = "experiment_state-"
_SAVED = re.compile(r"[^.].*-([0-9]{4}-[0-9_-]{14})\.(?:json|pkl)")  # those with a dot are being written


def can_go_on(storage: RunStorage) -> bool:
    """Whether Tune saved a state to go on from; newer ones that are not whole are set aside, and named.

    Raises OperationalError if none is whole.
    """
    sessions: dict[str, list[str]] = {}
    for name in storage.files():
        if found := _SAVED.fullmatch(name):
            sessions.setdefault(found[1], []).append(name)
    if not any(name.startswith(_TRIALS) for names in sessions.values() for name in names):
        return False
    damaged: list[str] = []
    for _, names in sorted(sessions.items(), reverse=True):
        trials = next((name for name in names if name.startswith(_TRIALS)), None)
        if trials and all(_is_whole(storage.read_file(name)) for name in names):
            for name in damaged:
                storage.set_aside(name)
            if damaged:
                print(
                    f"warning: not whole, and set aside: {', '.join(damaged)}; the search goes on from {trials}",
                    file=sys.stderr,
                    flush=True,
                )
            return True
        damaged += names
    raise OperationalError(
        f"no state that was saved of the search is whole ({', '.join(damaged)}); remove {storage.root}/{storage.name}, "
        "and it begins anew"
    )


def _is_whole(content: bytes) -> bool:
    """Whether it is a whole JSON document or a whole pickle: both are called .json."""
    try:
        if content.startswith(pickle.PROTO):
            for _ in pickletools.genops(content):  # to its end, and nothing is executed
                pass
        else:
            json.loads(content)
    except ValueError:
        return False
    return True
