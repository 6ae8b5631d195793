"""Send what was spooled while the tracking server was away."""

from __future__ import annotations

import sys

from pipelines.cli.command import run
from pipelines.tracking import runs
from pipelines.tracking.spool import set_aside, spool_directory, spools
from seqgen.core.errors import OperationalError
from seqgen.core.locks import Taken


def replay() -> None:
    """Send every run's spool and remove it, those of killed processes too; nothing is sent twice."""
    waiting = spools()
    for path in set_aside():
        print(
            f"{path} is damaged and cannot be sent; mend or delete its damaged file and take `.damaged` from its name, "
            "or delete it",
            file=sys.stderr,
        )
    if not waiting:
        print(f"nothing is spooled in {spool_directory()}")
        return
    client = runs.connect()
    failed = []
    for spool in waiting:
        try:
            count = runs.replay(client, spool)
            print(f"{spool.run_id}: {count} records sent")
        except Taken as taken:
            print(f"{spool.run_id}: left to the process that works on it ({taken.holder})")
        except Exception as error:
            reason = runs.why_kept(client, spool, error)
            print(f"{spool.path} not sent, and kept: {reason}", file=sys.stderr)
            failed.append(spool.run_id)
    if failed:
        raise OperationalError(f"{len(failed)} of {len(waiting)} runs not sent; see above")


if __name__ == "__main__":
    run(replay)
