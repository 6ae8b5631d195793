"""The serving benchmark: its arithmetic, and that it asks a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import serving
from seqgen.core.errors import OperationalError
from tests.served_models import saved


def test_rates_are_of_all_that_was_answered():
    found = serving.rates([0.001 * n for n in range(1, 101)], 2.0)
    assert found.requests == 50
    assert found.median == pytest.approx(50.5)
    assert found.p95 == pytest.approx(95.05)
    with pytest.raises(OperationalError, match="raise --seconds"):
        serving.rates([1.0], 1.0)


def test_every_client_asks_and_what_fails_is_said():
    seen = set()
    found = serving.measure([seen.add, seen.add, seen.add], 0.05)
    assert seen == {0, 1, 2}
    assert found.requests > 0

    def refused(seed: int) -> None:
        raise OperationalError("429")

    with pytest.raises(OperationalError, match="429"):
        serving.measure([refused], 0.05)


@pytest.mark.slow
def test_the_server_and_the_model_are_asked_the_same(tmp_path: Path):
    rows = serving.compare(
        saved(tmp_path / "model", (28, 28), conditional=True), [1, 3], samples=4, seconds=0.5
    )
    assert [row["clients"] for row in rows] == [0, 1, 3]
    assert all(row["requests"] > 0 for row in rows)
    assert rows[1]["images"] == 4
    assert rows[2]["images"] >= 4
    assert "| 3 clients |" in serving.table(rows)
