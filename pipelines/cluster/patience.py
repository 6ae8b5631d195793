"""How long a training waits for its workers, for a save and for its storage, as the environment says."""

from __future__ import annotations

from typing import NamedTuple

from seqgen.core.environment import number


class Patience(NamedTuple):
    """Seconds: `hang` for a step, `grace` for the save of a stopped training, `upload` for the last checkpoints."""

    hang: float
    grace: float
    upload: float

    @classmethod
    def of_environment(cls) -> Patience:
        """What SEQGEN_HANG_SECONDS, SEQGEN_GRACE_SECONDS and SEQGEN_UPLOAD_SECONDS say. Raises BadInput."""
        return cls(
            hang=number("SEQGEN_HANG_SECONDS", 600, least=1),
            grace=number("SEQGEN_GRACE_SECONDS", 60),
            upload=number("SEQGEN_UPLOAD_SECONDS", 300),
        )
