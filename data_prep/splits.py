"""Omniglot's splits by character: what is trained on and what a one-shot model has never seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from data_prep.omniglot import Character
from seqgen.core.errors import BadInput
from seqgen.data.settings import SplitRule

HELD_OUT = 3  # characters of each alphabet, in the weak split
EVALUATION_ALPHABETS_TRAINED = {"30-20": 0, "40-10": 10, "45-5": 15}
_VALID_EVERY = 10  # one training character in so many is for valid


def split_characters(
    background: Sequence[Character], evaluation: Sequence[Character], split: SplitRule
) -> dict[str, list[Character]]:
    """The characters of train, valid and test, each sorted by alphabet and name.

    weak: the first three characters of every alphabet are the test. 30-20: the evaluation archive is it.
    40-10 and 45-5: its first 10 or 15 alphabets in code point order are trained on too. Raises BadInput.
    """
    shared = {c.alphabet for c in background} & {c.alphabet for c in evaluation}
    if shared:
        raise BadInput(f"alphabet {min(shared)!r} stands in both archives; fetch them again")
    everything = sorted([*background, *evaluation])
    if split == "weak":
        test = set(_first_of_each_alphabet(everything))
    else:
        trained = EVALUATION_ALPHABETS_TRAINED[split]
        alphabets = sorted({c.alphabet for c in evaluation})
        if len(alphabets) <= trained:
            raise BadInput(
                f"split={split}: {len(alphabets)} evaluation alphabets; {trained} are for training"
            )
        test = {c for c in evaluation if c.alphabet in alphabets[trained:]}
    valid = set(held_back([c for c in everything if c not in test]))
    return {
        "train": [c for c in everything if c not in test and c not in valid],
        "valid": sorted(valid),
        "test": sorted(test),
    }


def held_back(characters: Sequence[Character]) -> list[Character]:
    """One in ten of the training characters, for valid: the same ones for ever, spread over the alphabets.

    Within an alphabet the order is that of sha256(concept); every tenth of the whole row is taken.
    """

    def rank(character: Character) -> tuple[str, bytes]:
        return character.alphabet, hashlib.sha256(character.concept.encode()).digest()

    return sorted(characters, key=rank)[_VALID_EVERY - 1 :: _VALID_EVERY]


def _first_of_each_alphabet(characters: Sequence[Character]) -> list[Character]:
    by_alphabet: dict[str, list[Character]] = {}
    for character in sorted(characters):
        by_alphabet.setdefault(character.alphabet, []).append(character)
    for alphabet, members in by_alphabet.items():
        if len(members) <= HELD_OUT:
            raise BadInput(
                f"split=weak: {alphabet} has {len(members)} characters, of which {HELD_OUT} are held out"
            )
    return [character for members in by_alphabet.values() for character in members[:HELD_OUT]]
