"""A verb as a process of its own, with none of this process's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def verb(where: Path, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m pipelines.<name>` in a directory."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SEQGEN_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", f"pipelines.{name}", *arguments],
        cwd=where,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert "Traceback" not in done.stderr
    return done
