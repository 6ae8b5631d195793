"""`python -m seqgen.compression MODEL FILE IMAGES`: decode a compressed file in a process of its own.

MODEL is the directory of a saved model; IMAGES is written as a NumPy array, uint8 [N,1,H,W].
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np

from seqgen.compression import decode
from seqgen.core.errors import SeqgenError
from seqgen.core.files import write_bytes
from seqgen.models import load_model


def main(arguments: list[str]) -> int:
    """The exit code is the error's."""
    if len(arguments) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    model, compressed, images = map(Path, arguments)
    try:
        stream = io.BytesIO()
        np.save(stream, decode(load_model(model), compressed.read_bytes()).numpy())
        write_bytes(images, stream.getvalue())
    except SeqgenError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
