"""The card of a set: valid front matter, the manifest's numbers, the licence of its source."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from data_prep.card import data_card
from data_prep.licences import LICENCES
from seqgen.data.manifest import read_manifest
from seqgen.data.settings import Source
from tests.sets import write_digits, write_strokes


def front_matter(card: str) -> dict[str, object]:
    begin, about, _ = card.split("---\n", 2)
    assert begin == ""
    return yaml.safe_load(about)


def test_every_source_has_a_licence_and_none_is_said_for_a_folder() -> None:
    assert LICENCES.keys() == set(get_args(Source))
    unknown = [source for source, licence in LICENCES.items() if licence.identifier == "unknown"]
    assert unknown == ["folder"]


def test_the_card_says_what_the_manifest_has(tmp_path: Path) -> None:
    write_digits(tmp_path / "set", {"train": 64, "valid": 20, "test": 1_200})
    manifest = read_manifest(tmp_path / "set")
    card = data_card(manifest)
    about = front_matter(card)
    assert about["license"] == "cc-by-sa-3.0"
    assert about["size_categories"] == ["1K<n<10K"]
    assert about["pretty_name"] == manifest.title
    assert about["task_categories"] == ["unconditional-image-generation"]
    assert "| test | 1,200 | 4 |" in card
    for said in (manifest.digest, manifest.sources[0].sha256, "LeCun", f"{manifest.mean:.4f}"):
        assert said in card
    assert "left out" not in card
    (damaged,) = manifest.splits["valid"].shards
    assert "20 training images are left out" in data_card(
        manifest.model_copy(update={"left_out": (damaged,)})
    )


@pytest.mark.parametrize(
    ("source", "said"), [("omniglot-strokes", "nothing of Omniglot"), ("omniglot", "20 paid")]
)
def test_the_card_says_what_the_source_is_not(tmp_path: Path, source: str, said: str) -> None:
    write_strokes(tmp_path / "set")
    manifest = read_manifest(tmp_path / "set")
    data = manifest.data.model_copy(update={"source": source})
    card = data_card(manifest.model_copy(update={"data": data}))
    assert said in card
    about = front_matter(card)
    assert about["license"] == "mit"
    assert "image-to-image" in about["task_categories"]
    assert "one-shot-generation" in about["tags"]
