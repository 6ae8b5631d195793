"""The compressed file: what is needed to decode it, the words of the stack, a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

import seqgen
from seqgen.core.errors import BadInput, OperationalError, changes
from seqgen.core.strict import Positive, Strict

_MAGIC = b"seqgen-bits-back-1\n"
_CHECKSUM = hashlib.sha256().digest_size


class Header(Strict):
    """What stands before the words, as one line of JSON."""

    seqgen: str = Field(description="the version that wrote it")
    model: str = Field(description="digest of the model's settings, sizes and weights")
    height: Positive
    width: Positive
    count: int = Field(ge=0, description="images")
    batch: Positive = Field(description="the most images that went through the model at once")
    initial_words: int = Field(
        ge=0, description="words of 32 random bits that were there at first and were used"
    )
    floats: dict[str, Any] = Field(description="what the model computed with, and a digest of what came out")


class Compressed(NamedTuple):
    """A file taken apart: its header, the words from the bottom of the stack to its top, uint32."""

    header: Header
    words: np.ndarray


def pack(header: Header, words: np.ndarray) -> bytes:
    """The file of `words`, uint32."""
    line = json.dumps(header.model_dump(mode="json"), separators=(",", ":")).encode()
    content = b"".join((_MAGIC, line, b"\n", words.astype("<u4").tobytes()))
    return content + hashlib.sha256(content).digest()


def unpack(content: bytes) -> Compressed:
    """Raises BadInput for what is no such file, OperationalError for one that was altered or cut short."""
    if not content.startswith(_MAGIC):
        raise BadInput(
            f"not a file of {_MAGIC.decode().strip()}, which seqgen {seqgen.__version__} reads; "
            "compress the images again"
        )
    content, checksum = content[:-_CHECKSUM], content[-_CHECKSUM:]
    if hashlib.sha256(content).digest() != checksum:
        raise OperationalError("compressed images: altered or cut short (sha256); get the file again")
    line, _, words = content.removeprefix(_MAGIC).partition(b"\n")
    try:
        header = Header.model_validate_json(line)
    except ValidationError as error:
        raise BadInput(f"compressed images: not a header of {_MAGIC.decode().strip()}: {error}") from error
    return Compressed(header, np.frombuffer(words, "<u4").astype(np.uint32))


def check(header: Header, model: str, floats: Mapping[str, Any]) -> None:
    """Raise BadInput unless the file was encoded by the model of this digest and with the same floats."""
    if header.model != model:
        raise BadInput(
            f"compressed images: encoded with the model {header.model}, this is {model}; decode with that one"
        )
    if header.floats != floats:
        differ = "; ".join(changes(header.floats, floats))
        raise BadInput(
            f"compressed images: the model's floats must be those it encoded with, and {differ}; "
            "decode where they are the same"
        )
