"""Send what was spooled while the tracking server was away (metrics, terminal statuses)."""

from __future__ import annotations

from data_prep.errors import OperationalError
from pipelines.support import metriclog, tracking
from pipelines.support.verb import run


def replay() -> None:
    """Send every spooled file and remove it; nothing is sent twice."""
    spool = metriclog.spool_directory()
    paths = sorted(spool.glob("*.jsonl"))
    if not paths:
        print(f"nothing is spooled in {spool}")
        return
    uri = tracking.tracking_uri()
    tracking.connect(uri)
    for path in paths:
        try:
            count = metriclog.replay(uri, path)
        except Exception as error:
            raise OperationalError(f"{path} not sent, and kept: {tracking.explain(uri, error)}") from None
        print(f"{path.stem}: {count} records sent")


if __name__ == "__main__":
    run(replay)
