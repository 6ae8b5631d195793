"""What the images of a folder look like: ink on which paper, and from which level on a pixel is ink."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from data_prep.folder import Picture
from data_prep.pictures import paper_of
from seqgen.core.errors import BadInput
from seqgen.data.manifest import Looks, Oblong
from seqgen.data.settings import DataConfig


def looks_of(data: DataConfig, found: Mapping[str, Sequence[Picture]]) -> Looks:
    """How the pictures of a first delivery, by split, are to be taken.

    The paper is what most of all of them are on, the threshold that of those for training.
    """
    paper = _usual_paper(_all(found)) if data.paper == "auto" else data.paper
    threshold: int | None = None
    if data.is_thresholded:
        training = (_on(paper, picture.levels) for picture in found["train"])
        threshold = otsu(training) if data.threshold == "auto" else data.threshold
    sides = [max(picture.shape) for picture in _all(found)]
    return Looks(
        paper=paper, threshold=threshold, sides=(min(sides), max(sides)), oblong=_oblong(_all(found), None)
    )


def looks_with(looks: Looks | None, found: Mapping[str, Sequence[Picture]]) -> Looks | None:
    """`looks` once the pictures of a later delivery are taken in the same way; None of a set that was made without."""
    if looks is None:
        return None
    sides = [*looks.sides, *(max(picture.shape) for picture in _all(found))]
    oblong = _oblong(_all(found), looks.oblong)
    return looks.model_copy(update={"sides": (min(sides), max(sides)), "oblong": oblong})


def taken(
    data: DataConfig, looks: Looks | None, found: Mapping[str, Sequence[Picture]], folder: str
) -> dict[str, list[tuple[str, np.ndarray]]]:
    """The pictures' names and pixels by split, uint8 [size, size]: 0..255, or {0, 1} where there is a threshold.

    Raises BadInput that lists every odd picture: on other paper than was detected, or without ink or without paper
    once there is a threshold.
    """
    pixels: dict[str, list[tuple[str, np.ndarray]]] = {split: [] for split in found}
    odd = []
    for split, pictures in found.items():
        for name, levels, _ in pictures:
            seen = _seen(looks, levels)
            if looks is not None and (problem := _oddity(data, looks, levels, seen)):
                odd.append(f"{folder}/{name}: {problem}")
            pixels[split].append((name, seen))
    if odd:
        raise BadInput("\n".join(odd))
    return pixels


def _seen(looks: Looks | None, levels: np.ndarray) -> np.ndarray:
    if looks is None:
        return levels
    ink = _on(looks.paper, levels)
    return ink if looks.threshold is None else (ink > looks.threshold).astype(np.uint8)


def _oddity(data: DataConfig, looks: Looks, levels: np.ndarray, seen: np.ndarray) -> str | None:
    """What is odd of a picture and what to do, None if nothing is."""
    if data.paper == "auto" and paper_of(levels) != looks.paper:
        return (
            f"on {paper_of(levels)} paper, most are on {looks.paper}; invert or remove it, or set data.paper"
        )
    if looks.threshold is not None and seen.min() == seen.max():
        what = "all ink" if seen.max() else "blank"
        return f"{what} at data.threshold={looks.threshold}; remove it, or choose another"
    return None


def otsu(images: Iterable[np.ndarray]) -> int:
    """Otsu's threshold of uint8 images: of the levels up to it and above it the means differ most, weighted.

    In whole numbers; the middle of equally good ones. 127 where all pixels have one level.
    """
    counts = np.zeros(256, np.int64)
    for image in images:
        counts += np.bincount(image.ravel(), minlength=256)
    total, weighted = int(counts.sum()), int(counts @ np.arange(256))
    below = below_weighted = 0
    between = []
    for level, count in enumerate(counts.tolist()[:-1]):
        below, below_weighted = below + count, below_weighted + count * level
        apart = total * below_weighted - below * weighted
        between.append(Fraction(apart**2, below * (total - below)) if 0 < below < total else Fraction(0))
    most = max(between)
    best = [level for level, value in enumerate(between) if value == most]
    return (best[0] + best[-1]) // 2


def _all(found: Mapping[str, Sequence[Picture]]) -> list[Picture]:
    return [picture for pictures in found.values() for picture in pictures]


def _oblong(pictures: Sequence[Picture], before: Oblong | None) -> Oblong | None:
    """What is known of images that are not square, with those of `pictures`; None while there are none."""
    shapes = [picture.shape for picture in pictures if picture.shape[0] != picture.shape[1]]
    images = len(shapes) + (before.images if before else 0)
    shapes += [before.widest, before.tallest] if before else []
    if not shapes:
        return None
    by_form = sorted(shapes, key=lambda shape: (shape[0] / shape[1], shape))
    return Oblong(images=images, widest=by_form[0], tallest=by_form[-1])


def _usual_paper(pictures: Sequence[Picture]) -> Literal["light", "dark"]:
    dark = sum(paper_of(picture.levels) == "dark" for picture in pictures)
    return "dark" if 2 * dark > len(pictures) else "light"


def _on(paper: str, levels: np.ndarray) -> np.ndarray:
    """Levels (255 black) as ink on `paper`."""
    return 255 - levels if paper == "dark" else levels
