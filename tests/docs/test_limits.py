"""docs/serving.md has the server's limits as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seqgen.serving.http.limits import Limits

PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text()


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        (r"`--max-samples` \(([\d,]+)\)", Limits.samples),
        (r"`--max-images` \(([\d,]+)\)", Limits.images),
        (r"`--max-body` \(([\d,]+) bytes\)", Limits.body_bytes),
        (r"`--max-seconds` \(([\d,]+)\)", Limits.seconds),
        (r"`--max-queue` \(([\d,]+)\)", Limits.queue),
        (r"A trace has up to ([\d,]+) images", Limits.traced),
        (r"a likelihood up to ([\d,]+) samples", Limits.num_samples),
        (r"an imputation up to ([\d,]+) steps", Limits.chain_steps),
    ],
)
def test_the_page_has_the_limit(said: str, limit: float) -> None:
    assert {float(number.replace(",", "")) for number in re.findall(said, PAGE)} == {limit}
