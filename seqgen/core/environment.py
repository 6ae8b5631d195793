"""Numbers that environment variables give."""

from __future__ import annotations

import math
import os

from seqgen.core.errors import BadInput


def number(name: str, default: float, unit: str = "seconds", *, least: float = 0) -> float:
    """The number in the variable `name`, counted in `unit`; `default` where it is unset or empty.

    Raises BadInput for what is no number, not finite, or less than `least`.
    """
    given = os.environ.get(name) or str(default)
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise BadInput(
            f"{name}={given}: give a number of {unit}, {least} or more, such as {default}, or unset it"
        )
    return value
