"""Omniglot's two zips: which characters there are, and their drawings. Nothing is written to disk."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.archive import CheckedZip
from seqgen.core.errors import BadInput

DRAWERS = 20
SIDE = 105  # pixels of a raw drawing

_MEMBER = re.compile(r"[^/]+/(?P<alphabet>[^/]+)/(?P<character>character\d\d)/\d{4}_(?P<drawer>\d\d)\.png")
_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True, order=True)
class Character:
    """A character and the members that are its drawings, drawer 1 first."""

    alphabet: str
    name: str
    members: tuple[str, ...]

    @property
    def concept(self) -> str:
        """The name by which splits and manifests know it."""
        return f"{self.alphabet}/{self.name}"


def characters(archive: CheckedZip) -> list[Character]:
    """The archive's characters, alphabets and characters in code point order, each with drawers 1 to 20.

    Alphabet names are kept as they are (NFC), with their parentheses, underscores, hyphens and accents.
    """
    drawings: dict[tuple[str, str], dict[int, str]] = {}
    roots = set()
    for name in _pictures(archive):
        match = _MEMBER.fullmatch(name)
        if match is None:
            raise BadInput(
                f"{archive.path}: member {name!r} is not Omniglot's <set>/<alphabet>/characterNN/NNNN_DD.png"
            )
        roots.add(name.partition("/")[0])
        drawers = drawings.setdefault((match["alphabet"], match["character"]), {})
        if drawers.setdefault(int(match["drawer"]), name) != name:
            raise BadInput(f"{archive.path}: member {name!r}: a second drawing by drawer {match['drawer']}")
    if len(roots) != 1:
        raise BadInput(
            f"{archive.path}: {len(roots)} top folders with drawings, not one; not Omniglot's layout"
        )
    for (alphabet, character), drawers in drawings.items():
        if sorted(drawers) != list(range(1, DRAWERS + 1)):
            raise BadInput(
                f"{archive.path}: {alphabet}/{character} has drawers {sorted(drawers)}, not 1 to {DRAWERS}; "
                "fetch it again"
            )
    return sorted(
        Character(alphabet, name, tuple(drawers[number] for number in sorted(drawers)))
        for (alphabet, name), drawers in drawings.items()
    )


def decode_drawing(png: bytes, where: str) -> np.ndarray:
    """A raw drawing as bool [105, 105], ink True (the files have ink = 0). Raises BadInput naming `where`."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if picture.size != (SIDE, SIDE) or picture.mode != "1":
                raise BadInput(f"{where}: {picture.mode} {picture.size}, not 1-bit {SIDE} x {SIDE}")
            if not png.endswith(_PNG_END):
                raise BadInput(f"{where}: a PNG that is cut short")
            return ~np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{where}: not a whole PNG: {error}") from error


def content_digest(path: Path) -> str:
    """A digest of the archive's drawings that is the same for every packing of them.

    sha256 over the lines `<member name> NUL <sha256 of the PNG> LF`, sorted by name.
    """
    digest = hashlib.sha256()
    with CheckedZip(path) as archive:
        for name in _pictures(archive):
            digest.update(f"{name}\0{hashlib.sha256(archive.read(name)).hexdigest()}\n".encode())
    return digest.hexdigest()


def _pictures(archive: CheckedZip) -> list[str]:
    """All members but what a Mac's Finder adds."""
    return [
        name
        for name in archive.names
        if not name.startswith("__MACOSX/") and not name.rpartition("/")[2].startswith(".")
    ]
