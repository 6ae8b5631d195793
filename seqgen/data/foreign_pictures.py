"""Picture files that others made: whatever Pillow raises on their bytes is one error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from seqgen.core.errors import BadInput, SeqgenError, one_line


@contextlib.contextmanager
def foreign_picture(
    file: BinaryIO | Path, formats: list[str] | tuple[str, ...], name: str, remedy: str
) -> Iterator[Image.Image]:
    """The picture in `file`, for a `with` in which it is decoded.

    Raises BadInput, `<name>: not a whole image (<why>); <remedy>`, for all that comes of its bytes there: on bad ones
    Pillow raises IndexError, TypeError, struct.error and others besides its own.
    """
    try:
        with Image.open(file, formats=formats) as picture:
            yield picture
    except (SeqgenError, MemoryError):
        raise
    except UnidentifiedImageError:  # whose text is the address of an object
        raise BadInput(f"{name}: not a whole image (no {' or '.join(formats)}); {remedy}") from None
    except Exception as error:
        why = one_line(error) or type(error).__name__
        raise BadInput(f"{name}: not a whole image ({why}); {remedy}") from error
