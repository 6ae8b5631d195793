"""MLflow's system metrics (processors, memory, disk, network, GPUs) of the machine that a run is driven on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from pipelines.tracking.server import tracking_uri
from pipelines.tracking.spool import is_local

_PATIENCE = 10.0  # seconds at the end for the last values: a server that is away keeps no training waiting


@contextlib.contextmanager
def system_metrics(run_id: str) -> Iterator[None]:
    """Within it they go to the run, if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is true and the server knows the run.

    They are not spooled: MLflow's thread stops, with a warning, when the server does not answer.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() or is_local(run_id):
        yield
        return
    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=tracking_uri())
    monitor.start()
    try:
        yield
    finally:
        ending = threading.Thread(target=monitor.finish, name="system-metrics-end", daemon=True)
        ending.start()
        ending.join(_PATIENCE)
