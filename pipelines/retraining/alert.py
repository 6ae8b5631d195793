"""Tells somebody that a retraining failed, by a command of theirs."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

_PATIENCE = 60.0  # seconds


def alert(command: str, facts: Mapping[str, Any]) -> None:
    """Run `command` (words as a shell splits them, but no shell) with `facts` as a line of JSON on its standard input.

    What goes wrong with it is a warning: a failure is not made another one.
    """
    try:
        done = subprocess.run(
            shlex.split(command), input=f"{json.dumps(facts)}\n".encode(), timeout=_PATIENCE, check=False
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        _warn(f"the alert command did not run: {error}")
        return
    if done.returncode:
        _warn(f"the alert command ended with code {done.returncode}")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
