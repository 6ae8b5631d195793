"""A shard read member by member and byte by byte, so that of a damaged one the member can be named.

webdataset, like most readers, takes a damaged header or a cut for the end of a tar, and passes half samples on.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seqgen.core.errors import OperationalError
from seqgen.data.shards import decode_sample

_BLOCK = tarfile.BLOCKSIZE


def read_strictly(path: Path) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield (images uint8 [n, H, W], meta) for each sample, in the order of the file.

    Raises OperationalError naming the shard and the member for every damage: a cut, a flipped bit, a half sample, mixed
    or repeated keys, another kind of member.
    """
    seen: set[str] = set()
    members = _members(path)
    for name, png in members:
        key, dot, suffix = name.partition(".")
        _require(bool(dot and key) and suffix == "png", path, name, "a sample starts with <key>.png")
        _require(key not in seen, path, name, f"key {key!r} stands twice")
        seen.add(key)
        follower, text = next(members, ("", b""))
        _require(
            follower == f"{key}.json", path, name, f"its {key}.json does not follow: {follower or 'end'}"
        )
        yield decode_sample(f"{path}: {key}", png, text)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every member's name and bytes; what is not a plain file, and any byte outside members, is refused."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OperationalError(f"{path}: cannot be read: {error.strerror}") from error
    last, end = "the start", 0
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                _require(member.type == tarfile.REGTYPE, path, member.name, "not a plain file")
                _require(member.offset == end, path, member.name, f"does not follow {last}")
                stop = member.offset_data + member.size
                end = -(-stop // _BLOCK) * _BLOCK
                _require(end <= len(content), path, member.name, "cut short")
                _require(not any(content[stop:end]), path, member.name, "bytes in its padding")
                yield member.name, content[member.offset_data : stop]
                last = member.name
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise OperationalError(f"{path}: damaged after {last}: {error}") from error
    # tarfile takes a damaged header for the end of the archive: only two blocks of zeros are one.
    if len(content) - end < 2 * _BLOCK or any(content[end:]):
        raise OperationalError(f"{path}: damaged or cut after {last}: no end of archive at byte {end}")


def _require(condition: bool, path: Path, member: str, problem: str) -> None:
    if not condition:
        raise OperationalError(f"{path}: {member}: {problem}")
