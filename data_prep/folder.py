"""The source `folder`: the images of a folder, listed by digest, delivery by delivery. They stay where they are.

The listing is what `sha256sum -c` reads; `# delivery 2` stands before what came after the first shards were made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from data_prep.concepts import concept_problems
from data_prep.pictures import ink, longer_side, paper_level, paper_of, square
from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes
from seqgen.data.manifest import FILE_NAME, read_manifest
from seqgen.data.settings import AUTO_SIZES, DataConfig

_SUFFIXES = {".png", ".jpg", ".jpeg", ".pgm"}
_LEFT_BY_WINDOWS = {"thumbs.db", "desktop.ini"}
_NAMED = 3  # of the files of other kinds


class Delivery(NamedTuple):
    """Images that came together: sha256 and name of each, in order of name; the sha256 of the listing to its end."""

    files: tuple[tuple[str, str], ...]
    digest: str


class Picture(NamedTuple):
    """An image made small: its name, levels uint8 [size, size] (255 black), its height and width before, pixels."""

    name: str
    levels: np.ndarray
    shape: tuple[int, int]


class Listed(NamedTuple):
    """How many images are listed in all, how many of them are new, and how many were left out as copies of others.

    `others` are the files of other kinds, which are left out.
    """

    images: int
    new: int
    copies: int
    others: tuple[str, ...]


class Elsewhere(NamedTuple):
    """What was not brought of an S3 prefix: files of other kinds, and what is wrong with others, a line each."""

    others: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


ALL_HERE = Elsewhere()


def is_image(name: str) -> bool:
    """Whether a file, its path below the folder, is taken for an image: by its suffix; nothing begins with a dot."""
    return Path(name).suffix.lower() in _SUFFIXES and not _is_hidden(name)


def is_other(name: str) -> bool:
    """Whether a file is of another kind and worth a word: neither hidden nor what Windows leaves in a folder."""
    if name.endswith("/"):  # S3 has objects that stand for folders
        return False
    return not (is_image(name) or _is_hidden(name) or Path(name).name.lower() in _LEFT_BY_WINDOWS)


def left_out(others: Sequence[str]) -> str:
    """A line that names the first of the files of other kinds, and says what to do; "" of none."""
    if not others:
        return ""
    what = "1 file of another kind is" if len(others) == 1 else f"{len(others):,} files of other kinds are"
    names = ", ".join(name if name.isprintable() else repr(name) for name in others[:_NAMED])
    more = f" and {len(others) - _NAMED:,} more" if len(others) > _NAMED else ""
    return f"{what} left out: {names}{more}; save what is a picture as PNG or JPEG"


def place_of(folder: str, raw: Path) -> Path:
    """Where the images of `data.path` are read: there, or below `raw` what was fetched of an S3 prefix."""
    if not folder.startswith("s3://"):
        return Path(folder)
    parts = urlsplit(folder)
    return raw / "folder" / parts.netloc / parts.path.strip("/")


def sharded_listing(folder: str, shards: Path) -> str | None:
    """The digest of the listing that the set in `shards` was made from; None if there is none of this folder.

    Raises OperationalError if its manifest was altered.
    """
    if not (shards / FILE_NAME).is_file():
        return None
    manifest = read_manifest(shards)
    return manifest.sources[0].sha256 if manifest.data.path == folder else None


def list_folder(
    folder: Path,
    listing: Path,
    sharded: str | None = None,
    *,
    concepts: bool = False,
    elsewhere: Elsewhere = ALL_HERE,
) -> Listed:
    """Write the names and digests of the images below `folder`, whose subfolders may be `concepts`, to `listing`.

    What `sharded` (`sharded_listing`) says was made into shards stays as it is listed, whatever became of the files;
    the others follow as one delivery. An image that is there twice is taken once, under its first name, and one that
    changed is a new one. Raises BadInput that lists, with the problems of `elsewhere`, every name that cannot be
    listed, every file that is no whole image and the `concept_problems`; the listing is as before then.
    """
    if not folder.is_dir():
        raise BadInput(f"data.path={folder}: no such folder")
    before = _listed_up_to(sharded, listing) if sharded else ""
    names_of = {digest: name for delivery in _parse(before) for digest, name in delivery.files}
    known, copies, lines, bad = len(names_of), 0, [], list(elsewhere.problems)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    others = tuple(sorted({*filter(is_other, files), *elsewhere.others}))
    for name in filter(is_image, files):
        if not name.isprintable():
            bad.append(f"data.path={folder}: {name!r} cannot be listed; rename it")
            continue
        try:
            content = _read(folder / name)
            digest = hashlib.sha256(content).hexdigest()
            if digest in names_of:
                copies += names_of[digest] != name
                continue
            ink(content, folder / name)
        except BadInput as error:
            bad.append(str(error))
            continue
        names_of[digest] = name
        lines.append(f"{digest}  {name}\n")
    if concepts and names_of:
        listed = list(names_of.values())
        first = len(_parse(before)[0].files) if before else len(listed)
        bad += concept_problems(listed[:first], listed[first:], str(folder))
    if bad:
        raise BadInput("\n".join(bad))
    if not names_of:
        kinds = f"data.path={folder}: no {', '.join(sorted(_SUFFIXES))} file in it"
        raise BadInput("; ".join(filter(None, [kinds, left_out(others)])))
    title = f"# delivery {len(_parse(before)) + 1}\n" if before and lines else ""
    text = f"{before}{title}{''.join(lines)}".encode()
    if not listing.is_file() or listing.read_bytes() != text:
        write_bytes(listing, text)
    return Listed(known + len(lines), len(lines), copies, others)


def deliveries(listing: Path) -> list[Delivery]:
    """What is listed, delivery by delivery."""
    return _parse(listing.read_text(encoding="utf-8"))


def detected_size(folder: Path, delivery: Delivery) -> int:
    """What `data.size` `auto` is for a delivery: the least of AUTO_SIZES that the median longer side does not exceed.

    The largest where that is longer.
    """
    sides = sorted(filter(None, (longer_side(folder / name) for _, name in delivery.files)))
    median = sides[len(sides) // 2] if sides else 0  # `read_delivery` names what cannot be read
    return next((size for size in AUTO_SIZES if size >= median), AUTO_SIZES[-1])


def read_delivery(
    data: DataConfig,
    size: int,
    folder: Path,
    delivery: Delivery,
    split_of: Callable[[str], str],
    *,
    first: bool,
) -> dict[str, list[Picture]]:
    """A delivery's images by split (`split_of` a name), made small, of `size` pixels, in order of name.

    The first one has all splits. Of a later one the images of `train` are taken: `valid` and `test` stay what they
    are, and those that fall to them wait for a set that is made afresh. Raises BadInput naming every file that is not
    as it was listed, and a split of the first delivery that has none.
    """
    found: dict[str, list[Picture]] = {
        split: [] for split in (("train", "valid", "test") if first else ("train",))
    }
    bad = []
    for digest, name in delivery.files:
        pictures = found.get(split_of(name))
        if pictures is None:
            continue
        path = folder / name
        try:
            content = _read(path)
            if hashlib.sha256(content).hexdigest() != digest:
                raise BadInput(f"{path}: changed since it was fetched; run `seqgen fetch` again")
            levels = ink(content, path)
        except BadInput as error:
            bad.append(str(error))
            continue
        paper = paper_of(levels) if data.paper == "auto" else data.paper
        small = square(levels, size, paper_level(levels, paper))
        pictures.append(Picture(name, small, (levels.shape[0], levels.shape[1])))
    if bad:
        raise BadInput("\n".join(bad))
    for split, pictures in found.items():
        if not pictures:
            raise BadInput(f"data.path={data.path}: none of its images falls to {split}; add some")
    return found


def adds_to_training(delivery: Delivery, split_of: Callable[[str], str]) -> bool:
    """Whether a delivery has an image for `train`."""
    return any(split_of(name) == "train" for _, name in delivery.files)


def _is_hidden(name: str) -> bool:
    return "/." in f"/{name}"


def _listed_up_to(digest: str, listing: Path) -> str:
    """The text of `listing` to the end of the delivery with this digest."""
    text = listing.read_text(encoding="utf-8") if listing.is_file() else ""
    end = 0
    for delivery in _parse(text):
        end = text.find("\n#", end + 1) + 1 or len(text)
        if delivery.digest == digest:
            return text[:end]
    raise BadInput(
        f"{listing}: not the listing that the shards were made from; put it back, or remove the shards, and the set is "
        "made afresh"
    )


def _parse(text: str) -> list[Delivery]:
    found: list[Delivery] = []
    files: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            found.append(Delivery(tuple(files), digest.hexdigest()))
            files = []
        else:
            sha256, name = line.rstrip("\n").split("  ", 1)
            files.append((sha256, name))
        digest.update(line.encode())
    return [*found, Delivery(tuple(files), digest.hexdigest())] if files else found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
