"""A published set: its files are fetched from where they are, each shard confirmed by the manifest, and kept here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import FILE_NAME, Shard, is_whole
from seqgen.data.shard_cache import ShardCache


class Fetcher(Protocol):
    """Where the files of a set were published; `str` of it is the address, without credentials."""

    def fetch(self, name: str, sha256: str | None = None) -> bytes | None:
        """The bytes of a file, None if there is none of this name; `sha256` is what they should have, if it is known.

        Raises BadInput where the address or the credentials are wrong, OperationalError where nobody answers.
        """
        ...


@dataclass(frozen=True)
class PublishedSet:
    """The set that `fetcher` fetches; its shards are kept in `cache`. What `load_split` and others take for a place."""

    fetcher: Fetcher
    cache: ShardCache | None

    def __str__(self) -> str:
        return str(self.fetcher)

    def manifest(self) -> bytes:
        """The bytes of its manifest, always fetched. Raises BadInput if there is none."""
        content = self.fetcher.fetch(FILE_NAME)
        if content is None:
            raise BadInput(f"{self}/{FILE_NAME}: no manifest, so no complete set was published here")
        return content

    def shard(self, shard: Shard) -> bytes:
        """A shard's bytes. Raises OperationalError naming it if it is missing or not as the manifest says."""

        def fetch() -> bytes:
            content = self.fetcher.fetch(shard.name, shard.sha256)
            if content is None:
                raise OperationalError(f"{self}/{shard.name}: missing; publish the set again")
            if not is_whole(shard, content):
                raise OperationalError(
                    f"{self}/{shard.name}: damaged (size or sha256 is not the manifest's), or of another set that is "
                    "being published here; publish the set again"
                )
            return content

        return self.cache.get(shard, fetch) if self.cache else fetch()
