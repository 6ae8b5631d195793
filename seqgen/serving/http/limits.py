"""What one request, and all that wait, may ask of the server."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from seqgen.core.errors import BadInput


@dataclass(frozen=True)
class Limits:
    """Requests beyond these are refused; `GET /v1/model` tells them. Raises BadInput for one that nothing is within."""

    samples: int = 200  # drawings, frames of a walk or chains of one request
    images: int = 100  # images given in one request
    body_bytes: int = 4_000_000
    seconds: float = 30.0  # from when a request is read to its answer
    queue: int = 64  # requests with a body that are read, wait or are worked on
    traced: int = 8_000  # images in the answer to one trace: steps x samples
    num_samples: int = 5_000  # posterior samples an image of a likelihood
    chain_steps: int = 1_000  # steps of an imputation's Markov chain

    def __post_init__(self) -> None:
        for field, value in asdict(self).items():
            least = 0.001 if field == "seconds" else 1
            if not (math.isfinite(value) and value >= least):
                raise BadInput(f"{field}={value}: not a limit; give a finite number from {least}")

    def check(self, field: str, value: int, name: str) -> None:
        """Raise BadInput if `field` is `value` and that is not from 1 to the limit of that `name`."""
        most = getattr(self, name)
        if not 1 <= value <= most:
            raise BadInput(f"{field}={value}: from 1 to {most} in one request")
