"""The page of `seqgen serve`: HTML, CSS and JavaScript modules in `FILES`, served as they are."""

from __future__ import annotations

from pathlib import Path

FILES = Path(__file__).parent / "static"
