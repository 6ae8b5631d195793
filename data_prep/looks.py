"""What the images of a folder look like: ink on which paper, and from which level on a pixel is ink."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from data_prep.folder import Picture
from seqgen.core.errors import BadInput
from seqgen.data.manifest import Looks
from seqgen.data.settings import DataConfig

_MIDDLE = 127


def looks_of(data: DataConfig, found: Mapping[str, Sequence[Picture]], folder: str) -> Looks | None:
    """How the pictures of a first delivery are to be taken, by split; None where there is nothing to choose.

    The paper is detected over all of them, the threshold over those for training. Raises BadInput that lists every
    picture on other paper than most.
    """
    if data.paper == "light" and not data.is_thresholded:
        return None
    pictures = [picture for split in found.values() for picture in split]
    paper = _paper(pictures, folder) if data.paper == "auto" else data.paper
    threshold: int | None = None
    if data.is_thresholded:
        training = (_on(paper, picture.levels) for picture in found["train"])
        threshold = otsu(training) if data.threshold == "auto" else data.threshold
    sides = [picture.side for picture in pictures]
    return Looks(paper=paper, threshold=threshold, sides=(min(sides), max(sides)))


def taken(
    looks: Looks | None, found: Mapping[str, Sequence[Picture]], folder: str
) -> dict[str, list[tuple[str, np.ndarray]]]:
    """The pictures' names and pixels by split, uint8 [size, size]: 0..255, or {0, 1} where there is a threshold.

    Raises BadInput that lists every picture which a threshold leaves without ink or without paper.
    """
    if looks is None:
        return {split: [(name, levels) for name, levels, _ in of] for split, of in found.items()}
    pixels = {split: [(name, _seen(looks, levels)) for name, levels, _ in of] for split, of in found.items()}
    if looks.threshold is not None:
        plain = [(name, bits) for of in pixels.values() for name, bits in of if bits.min() == bits.max()]
        if plain:
            raise BadInput(
                "\n".join(
                    f"{folder}/{name}: {'all ink' if bits.max() else 'blank'} at data.threshold={looks.threshold}; "
                    "remove it, or choose another"
                    for name, bits in plain
                )
            )
    return pixels


def _seen(looks: Looks, levels: np.ndarray) -> np.ndarray:
    ink = _on(looks.paper, levels)
    return ink if looks.threshold is None else (ink > looks.threshold).astype(np.uint8)


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
    best = [level for level, value in enumerate(between) if value == max(between)]
    return (best[0] + best[-1]) // 2


def _paper(pictures: Sequence[Picture], folder: str) -> Literal["light", "dark"]:
    """What most pictures' edges show. Raises BadInput naming the others."""
    dark = [bool(np.median(_edge(picture.levels)) > _MIDDLE) for picture in pictures]
    mostly = 2 * sum(dark) > len(dark)
    words: dict[bool, Literal["light", "dark"]] = {False: "light", True: "dark"}
    odd = [picture.name for picture, is_dark in zip(pictures, dark, strict=True) if is_dark != mostly]
    if odd:
        raise BadInput(
            "\n".join(
                f"{folder}/{name}: on {words[not mostly]} paper, most are on {words[mostly]}; invert or remove it, "
                "or set data.paper"
                for name in odd
            )
        )
    return words[mostly]


def _edge(levels: np.ndarray) -> np.ndarray:
    """The outermost pixels of a square [size, size]."""
    return np.concatenate([levels[0], levels[-1], levels[1:-1, 0], levels[1:-1, -1]])


def _on(paper: str, levels: np.ndarray) -> np.ndarray:
    """Levels (255 black) as ink on `paper`."""
    return 255 - levels if paper == "dark" else levels
