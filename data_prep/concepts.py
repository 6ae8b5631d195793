"""A folder whose subfolders are characters: `concept/drawing.png` or `alphabet/concept/drawing.png`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

from data_prep.pictures import split_of
from seqgen.core.errors import BadInput
from seqgen.data.settings import DataConfig

_DEPTHS = {1: "<concept>/<drawing>", 2: "<alphabet>/<concept>/<drawing>"}  # by the folders above a file
_TENTH = 10  # one concept in so many is for test, as many for valid
_FEWEST = 2  # concepts held out in each: an error bar is over concepts


def concept_of(name: str) -> str:
    """The concept of the file `name`, its path below the folder: the folder it lies in, with its alphabet."""
    return name.rpartition("/")[0]


def split_rule(
    data: DataConfig, first: Sequence[str], later: Sequence[str], folder: str
) -> Callable[[str], str]:
    """The split of a file by its name; `first` are the names of the first delivery, `later` of the others.

    standard: by the name alone. concepts: in order of sha256("<seed>/<concept>") the first tenth of the concepts of
    `first` (two at least) is test, the second valid; all others are train, those too that come later. Raises BadInput
    that lists the `concept_problems`.
    """
    if not data.has_characters:
        return lambda name: split_of(name, data.seed)
    if problems := concept_problems(first, later, folder):
        raise BadInput("\n".join(problems))
    concepts = sorted(
        {concept_of(name) for name in first},
        key=lambda concept: (hashlib.sha256(f"{data.seed}/{concept}".encode()).digest(), concept),
    )
    each = max(_FEWEST, len(concepts) // _TENTH)
    splits = dict.fromkeys(concepts[:each], "test") | dict.fromkeys(concepts[each : 2 * each], "valid")
    return lambda name: splits.get(concept_of(name), "train")


def concept_problems(first: Sequence[str], later: Sequence[str], folder: str) -> list[str]:
    """What keeps images from being drawings of characters, a line each; `first` and `later` as for `split_rule`.

    A file that lies elsewhere than most do, which is below a concept or below an alphabet and a concept; a concept of a
    single drawing; too few concepts.
    """
    names = [*first, *later]
    depths = Counter(depth for name in names if (depth := name.count("/")) in _DEPTHS)
    if not depths:
        return [
            f"data.path={folder}: data.split=concepts wants {' or '.join(_DEPTHS.values())}, and no file lies so; "
            "put each character's drawings into a folder of its own, or use data.split=standard"
        ]
    usual = max(depths, key=lambda depth: (depths[depth], depth))
    drawings = Counter(concept_of(name) for name in names if name.count("/") == usual)
    problems = [
        f"{folder}/{name}: not {_DEPTHS[usual]}, as most are; move or remove it"
        for name in names
        if name.count("/") != usual
    ]
    problems += [
        f"{folder}/{concept}: one drawing (copies do not count), and a pair needs two; add some"
        for concept, count in drawings.items()
        if count == 1
    ]
    if (concepts := len({concept_of(name) for name in first if name.count("/") == usual})) < 3 * _FEWEST:
        problems.append(
            f"data.path={folder}: {concepts} concepts; {3 * _FEWEST} are the least, {_FEWEST} for each split"
        )
    return problems
