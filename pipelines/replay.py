"""Send what was spooled while the tracking server was away."""

from __future__ import annotations

from pipelines.cli.command import run
from pipelines.tracking import runs, spool
from seqgen.core.errors import OperationalError


def replay() -> None:
    """Send every spooled file and remove it; nothing is sent twice."""
    directory = spool.spool_directory()
    paths = sorted(directory.glob("*.jsonl"))
    if not paths:
        print(f"nothing is spooled in {directory}")
        return
    uri = runs.tracking_uri()
    runs.connect(uri)
    for path in paths:
        try:
            count = spool.replay(uri, path)
        except Exception as error:
            raise OperationalError(f"{path} not sent, and kept: {runs.explain(uri, error)}") from None
        print(f"{path.stem}: {count} records sent")


if __name__ == "__main__":
    run(replay)
