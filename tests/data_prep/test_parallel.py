"""The map over processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from data_prep.parallel import parallel_map
from seqgen.core.errors import OperationalError


@pytest.mark.parametrize("processes", [1, 2, 9])
def test_results_come_in_the_order_of_the_jobs(processes: int):
    assert list(parallel_map(abs, range(-5, 5), processes)) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]


def _slow_touch(path: Path) -> None:
    time.sleep(0.05)
    path.touch()


def test_closed_early_it_does_not_go_on_with_the_other_jobs(tmp_path: Path):
    jobs = [tmp_path / f"{n}" for n in range(200)]
    results = parallel_map(_slow_touch, jobs, processes=2)
    next(results)
    results.close()
    assert len(list(tmp_path.iterdir())) < len(jobs)


def test_a_killed_process_of_the_pool_is_one_error():
    with pytest.raises(OperationalError, match="was killed"):
        list(parallel_map(os._exit, [1, 1], processes=2))
