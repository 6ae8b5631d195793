"""Secrets that tests put into the environment of what they start, and the search for them in all that comes of it."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

# Made anew each time: this file is among those that a job uploads.
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIA" + secrets.token_hex(8).upper(),
    "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
    "AWS_SESSION_TOKEN": secrets.token_hex(40),
    "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
USER, PASSWORD = "seqgen", secrets.token_hex(12)


def found(*places: Path, text: str = "", more: Sequence[str] = ()) -> list[str]:
    """Where a secret, or one `more`, is: in `text`, or in a file below `places`; as it is, or as a login is sent."""
    wanted = [secret.encode() for secret in (*SECRETS.values(), PASSWORD, *more)]
    wanted.append(base64.b64encode(f"{USER}:{PASSWORD}".encode()))
    where = [line for line in text.splitlines() if any(secret in line.encode() for secret in wanted)]
    for place in places:
        for directory, _, names in os.walk(place):
            for path in (Path(directory) / name for name in names):
                if path.is_file() and not path.is_symlink():
                    content = path.read_bytes()
                    where += [f"{path}: {secret.decode()}" for secret in wanted if secret in content]
    return where
