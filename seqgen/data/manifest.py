"""The manifest: what a directory of shards must hold. A reader trusts nothing that it does not confirm."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import canonical_digest, write_json
from seqgen.core.strict import Strict
from seqgen.data.settings import DataConfig

FILE_NAME = "manifest.json"


class Shard(Strict):
    """One tar: its name in the directory, its bytes, and the samples in it."""

    name: str = Field(pattern=r"^[a-z]+-[0-9]{6}\.tar$")  # never a path, a URL or a `pipe:`
    sha256: str
    bytes: int
    samples: int
    images: int


class SplitIndex(Strict):
    """One split: its shards in order, its images, and the concepts (characters or chunks' classes) in it."""

    model_config = ConfigDict(strict=False)
    images: int
    concepts: tuple[str, ...]
    shards: tuple[Shard, ...]


class SourceFile(Strict):
    """A raw file the set was made from, as it was on disk."""

    name: str
    sha256: str


class Oblong(Strict):
    """The images of a folder that were not square: how many, and [height, width] of the widest and of the tallest."""

    model_config = ConfigDict(strict=False)
    images: int
    widest: tuple[int, int]
    tallest: tuple[int, int]


class Looks(Strict):
    """How a folder's images were taken: as `data` says or, where it says `auto`, as they were found.

    paper: what they are drawn on; threshold: the level (0 paper, 255 ink) above which a pixel is ink, None where they
    stay grey; sides: the smallest and the largest of the squares that were made small, in pixels; oblong: the images
    that were filled up with paper to be such squares, None where all were square.
    """

    model_config = ConfigDict(strict=False)
    paper: Literal["light", "dark"]
    threshold: int | None
    sides: tuple[int, int]
    oblong: Oblong | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As in Manifest: sets of square images keep their digests.
        return {key: value for key, value in serialise(self).items() if value is not None or key != "oblong"}


class Manifest(Strict):
    """Everything about a sharded set. `digest` is the sha256 of all other fields.

    `parent` is the digest of the manifest whose shards this one has too, before those that were appended.
    """

    model_config = ConfigDict(strict=False)
    schema_version: Literal[1] = 1
    title: str
    data: DataConfig
    height: int
    width: int
    levels: Literal[2, 256]
    mean: float
    sources: tuple[SourceFile, ...]
    splits: dict[str, SplitIndex]
    parent: str | None = None
    left_out: tuple[Shard, ...] = ()  # what was damaged and is no part of this set
    looks: Looks | None = None  # of a folder's images
    digest: str = ""

    def decoded_bytes(self, split: str) -> int:
        """The bytes of all images of `split`, decoded to uint8. Raises KeyError for an unknown split."""
        return self.splits[split].images * self.height * self.width

    def compute_digest(self) -> str:
        """The sha256 of the manifest without its own digest."""
        return canonical_digest(self.model_dump(mode="json", exclude={"digest"}))

    def appearance(self) -> str:
        """How a folder's images were taken, and what of it was detected, in a line; "" of other sets."""
        if self.looks is None:
            return ""
        found = " (detected)"
        said = [f"{self.looks.paper} paper{found if self.data.paper == 'auto' else ''}"]
        if self.looks.threshold is not None:
            detected = found if self.data.threshold == "auto" else ""
            said.append(f"ink above level {self.looks.threshold} of 255{detected}")
        smallest, largest = self.looks.sides
        sides = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
        said.append(
            f"squares of {sides} pixels made {self.height}{found if self.data.size == 'auto' else ''}"
        )
        return f"{', '.join(said)}{_filled(self.looks.oblong)}"

    @model_serializer(mode="wrap")
    def _without_what_is_not(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Sets of which these fields say nothing keep the digests that they had before there were such fields.
        tree: dict[str, Any] = serialise(self)
        return {
            key: value for key, value in tree.items() if value or key not in ("parent", "left_out", "looks")
        }

    def write(self, directory: Path) -> Manifest:
        """Fill in the digest and write `manifest.json`, the set's completeness mark, last of all files."""
        sealed = self.model_copy(update={"digest": self.compute_digest()})
        sealed.check_leaks()
        write_json(directory / FILE_NAME, sealed.model_dump(mode="json"))
        return sealed

    def check_leaks(self) -> None:
        """Refuse a one-shot set in which a concept stands in two splits.

        Classes of MNIST are shared by design; a shared character would make the test meaningless.
        """
        if not self.data.has_characters:
            return
        seen: dict[str, str] = {}
        for split, index in self.splits.items():
            for concept in index.concepts:
                if seen.setdefault(concept, split) != split:
                    raise BadInput(
                        f"concept {concept!r} stands in both {seen[concept]} and {split}: "
                        "the one-shot split leaks; shard the set again"
                    )


def _filled(oblong: Oblong | None) -> str:
    if oblong is None:
        return ""
    shapes = " to ".join(
        dict.fromkeys(f"{width} x {height}" for height, width in (oblong.widest, oblong.tallest))
    )
    return f"; not square: {oblong.images:,} images, {shapes} pixels (width x height), filled up with paper"


class Published(Protocol):
    """A set that is not a directory here: its files are fetched. `str` of it is its address, without credentials."""

    def __hash__(self) -> int: ...

    def manifest(self) -> bytes:
        """The bytes of its manifest. Raises BadInput if there is none."""
        ...

    def shard(self, shard: Shard) -> bytes:
        """A shard's bytes, which are those of the manifest. Raises OperationalError naming it if it is not so."""
        ...


Place = Path | Published  # where a sharded set is read from


def read_manifest(place: Place) -> Manifest:
    """Read and check the `manifest.json` of a set (its own digest, its schema, its split rule).

    Raises BadInput if it is absent or not a manifest of this version, OperationalError if it was altered.
    """
    path = f"{place}/{FILE_NAME}"
    if isinstance(place, Path) and not (place / FILE_NAME).is_file():
        raise BadInput(f"{path}: no manifest, so no complete shards here; run `seqgen shard --recipe <name>`")
    content = (place / FILE_NAME).read_bytes() if isinstance(place, Path) else place.manifest()
    try:
        manifest = Manifest.model_validate(json.loads(content.decode()))
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise BadInput(f"{path}: not a manifest of schema 1: {error}") from error
    if manifest.digest != manifest.compute_digest():
        raise OperationalError(f"{path}: altered since it was written (digest differs); shard the set again")
    manifest.check_leaks()
    return manifest


def is_whole(shard: Shard, content: bytes) -> bool:
    """Whether `content` is the shard that the manifest names, to the last byte."""
    return len(content) == shard.bytes and hashlib.sha256(content).hexdigest() == shard.sha256


def check_shard_bytes(directory: Path, shard: Shard) -> None:
    """Compare one shard with the manifest; OperationalError names the missing or damaged file."""
    confirmed_bytes(directory, shard)


def confirmed_bytes(place: Place, shard: Shard) -> bytes:
    """One shard's bytes, which are those of the manifest. Raises as `check_shard_bytes`."""
    if not isinstance(place, Path):
        return place.shard(shard)
    path = place / shard.name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise OperationalError(f"{path}: missing; run `seqgen shard --recipe <name>` again") from None
    except OSError as error:
        raise OperationalError(f"{path}: cannot be read: {error.strerror}") from error
    if not is_whole(shard, content):
        raise OperationalError(
            f"{path}: damaged (size or sha256 is not the manifest's); run `seqgen verify "
            "--recipe <name>` for the member, and `seqgen shard --recipe <name>` to make it again"
        )
    return content
