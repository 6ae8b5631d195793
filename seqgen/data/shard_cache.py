"""Fetched shards on local disk: a bounded number of bytes, shared by all processes of a machine."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seqgen.core.locks import held
from seqgen.data.manifest import Shard, is_whole

_PATIENCE = 600.0  # seconds for which a process waits until another has fetched a shard


@dataclass(frozen=True)
class ShardCache:
    """At most `limit` bytes of shards in `directory`; those that were used longest ago make room for new ones.

    A shard's file is named by its sha256, so sets may share a directory, and is compared with it whenever it is
    read: one that was altered is fetched again. Of the processes that want a shard at once, one fetches it.
    """

    directory: Path
    limit: int

    def get(self, shard: Shard, fetch: Callable[[], bytes]) -> bytes:
        """The bytes of `shard`: the kept ones, or those that `fetch` gives (confirmed by it), which are kept.

        On a disk that takes none, nothing is kept, which is warned of. Raises Taken if another process fetches the
        shard for very long, and what `fetch` raises.
        """
        if (content := self._kept(shard)) is not None:
            return content
        with contextlib.ExitStack() as lock:
            with self._tolerated():
                name = self.directory / "locks" / shard.sha256[:2]
                lock.enter_context(held(name, timeout=_PATIENCE))
            if (content := self._kept(shard)) is None:  # nor has the one before us fetched it
                content = fetch()
                with self._tolerated():
                    self._keep(shard, content)
        return content

    def _kept(self, shard: Shard) -> bytes | None:
        path = self._path(shard.sha256)
        try:
            content = path.read_bytes()
            if is_whole(shard, content):
                os.utime(path)  # used now
                return content
            warnings.warn(f"{path}: altered since it was fetched; fetched again", stacklevel=2)
            path.unlink()
        except OSError:
            pass
        return None

    def _keep(self, shard: Shard, content: bytes) -> None:
        if len(content) > self.limit:
            return
        with held(self.directory / "locks" / "room", timeout=_PATIENCE):
            arriving = self.directory / "arriving"  # one at a time: whoever holds the lock
            arriving.unlink(missing_ok=True)
            self._make_room(len(content))
            try:
                arriving.write_bytes(content)
                arriving.replace(self._path(shard.sha256))
            except OSError:
                arriving.unlink(missing_ok=True)
                raise

    def _make_room(self, needed: int) -> None:
        files = [(path.stat(), path) for path in self.directory.glob("*.tar")]
        files.sort(key=lambda file: file[0].st_mtime_ns)
        room = self.limit - sum(stat.st_size for stat, _ in files)
        for stat, path in files:
            if room >= needed:
                return
            path.unlink()
            room += stat.st_size

    def _path(self, sha256: str) -> Path:
        return self.directory / f"{sha256}.tar"

    @contextlib.contextmanager
    def _tolerated(self) -> Iterator[None]:
        """What the disk refuses is warned of: a cache spares fetching, no more."""
        try:
            yield
        except OSError as error:
            warnings.warn(
                f"{self.directory}: keeps no shards ({error.strerror}), so each is fetched whenever it is needed; make "
                "room, or name another directory",
                stacklevel=2,
            )
