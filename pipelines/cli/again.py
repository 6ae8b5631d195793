"""The command with which a person goes on with what was interrupted."""

from __future__ import annotations

import os
import shlex
import sys

from pipelines.cli.verbs import VERBS

SUBMITTED = "SEQGEN_SUBMITTED"  # in a job of `seqgen submit`: the command that submitted it


def again() -> str:
    """This process's command line; in a Ray job the one that submits it once more."""
    if submitted := os.environ.get(SUBMITTED):
        return submitted
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # what Ray sets for a job's command
        for verb in VERBS.values():
            if sys.orig_argv[1:3] == ["-m", verb.module]:
                return shlex.join(["seqgen", "submit", "--", verb.name, *sys.orig_argv[3:]])
    return shlex.join(["python", *sys.orig_argv[1:]])
