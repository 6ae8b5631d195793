"""Sharded sets in a bucket or on a shared folder: put there once, read from there by any machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipelines.storage import Altered, open_store
from seqgen.core.environment import number
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import FILE_NAME, Manifest, Place, Shard, check_shard_bytes, read_manifest
from seqgen.data.published import PublishedSet
from seqgen.data.shard_cache import ShardCache

_CACHE_BYTES = 10 * 2**30
_AT_ONCE = 4  # shards that are put at a time


def published_root() -> str | None:
    """SEQGEN_SHARDS, an absolute path or s3://bucket/prefix that the shards of recipes lie below; None if not set."""
    root = os.environ.get("SEQGEN_SHARDS")
    if not root:
        return None
    if not root.startswith("s3://") and ("://" in root or not Path(root).is_absolute()):
        raise BadInput(f"SEQGEN_SHARDS={root}: give an absolute path or s3://<bucket>/<prefix>")
    return root.rstrip("/")


def opened(address: str, cached: bool = True) -> Place:
    """The set at an absolute path or s3://bucket/prefix; `cached`: what is fetched is kept in this machine's cache."""
    if not address.startswith("s3://"):
        return Path(address)
    return PublishedSet(StoredSet(address), shard_cache() if cached else None)


def shard_cache() -> ShardCache:
    """SEQGEN_SHARD_CACHE, else seqgen/shards of the user's cache; at most SEQGEN_SHARD_CACHE_BYTES, else 10 GiB."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = Path(os.environ.get("SEQGEN_SHARD_CACHE") or home / "seqgen" / "shards")
    if not directory.is_absolute():
        raise BadInput(f"SEQGEN_SHARD_CACHE={directory}: give an absolute path, the same for every process")
    return ShardCache(directory, int(number("SEQGEN_SHARD_CACHE_BYTES", _CACHE_BYTES, "bytes")))


@dataclass(frozen=True)
class StoredSet:
    """The files of a set in the storage at `address`."""

    address: str

    def __str__(self) -> str:
        return self.address

    def fetch(self, name: str, sha256: str | None = None) -> bytes | None:
        """See `seqgen.data.published.Fetcher`."""
        try:
            return open_store(self.address).read(name, sha256)
        except Altered as error:
            raise OperationalError(f"{error}, or publish the set again") from error


def check_published(place: Place, shards: tuple[Shard, ...]) -> None:
    """Raise OperationalError if a shard is not there at all; its bytes are confirmed when they are fetched."""
    there = set(open_store(str(place)).list())
    for shard in shards:
        if shard.name not in there:
            raise OperationalError(f"{place}/{shard.name}: missing; publish the set again")


def publish_set(directory: Path, address: str, put: Callable[[Shard], None] = lambda shard: None) -> Manifest:
    """Put the set in `directory` to `address`: the shards that are not there yet, and the manifest last of all.

    Every shard is compared with the manifest before. `put` is told of each that was put. Raises OperationalError for a
    damaged shard or a storage that does not answer, BadInput for one that refuses.
    """
    manifest, store = read_manifest(directory), open_store(address)

    def bring(shard: Shard) -> None:
        if store.sha256(shard.name) == shard.sha256:
            return
        check_shard_bytes(directory, shard)
        store.put_file(directory / shard.name, shard.name)
        put(shard)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        shards = [shard for index in manifest.splits.values() for shard in index.shards]
        for _ in threads.map(bring, shards):
            pass
    store.put_file(directory / FILE_NAME, FILE_NAME)
    return manifest
