"""`python -m seqgen.native`: build the native kernels for this machine."""

from __future__ import annotations

import sys
import time

from seqgen.core.errors import OperationalError
from seqgen.native import build


def main() -> int:
    """Exit code 0 if they are there, 1 if not: everything works without them, more slowly."""
    began = time.monotonic()
    try:
        path = build()
    except OperationalError as error:
        print(
            f"native kernels not built: {error}\nseqgen works without them, more slowly on a CPU",
            file=sys.stderr,
        )
        return 1
    print(f"native kernels: {path} ({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
