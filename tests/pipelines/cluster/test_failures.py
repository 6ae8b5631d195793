"""The errors of workers: which a restart may mend, whose is told, and when."""

from __future__ import annotations

import pytest
import torch

from pipelines.cluster import line
from pipelines.cluster.failures import Failure, in_words, may_be_mended, told
from pipelines.cluster.line import Exchange, Sign
from seqgen.core.errors import BadInput, OperationalError, SeqgenError


@pytest.mark.parametrize(
    ("error", "mended"),
    [
        (RuntimeError("[/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"), True),
        (torch.distributed.DistNetworkError("the store is gone"), True),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("the sprite is too large"), False),
        (BadInput("no manifest"), False),
        (OperationalError("a shard was altered"), False),
    ],
)
def test_a_restart_may_mend_what_came_from_outside_the_program(error: Exception, mended: bool):
    assert may_be_mended(error) is mended


def test_an_error_that_is_not_ours_is_told_with_its_place():
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    assert in_words(caught.value, {}).startswith("ZeroDivisionError: division by zero (test_failures.py:")


def failure(rank: int, text: str = "no manifest", kind: type[SeqgenError] = BadInput) -> Failure:
    return Failure(rank, 2, f"node-{rank}", kind, text)


def test_the_first_one_is_told_with_its_rank_and_node_unless_all_failed_of_the_same():
    one = told([failure(1)])
    assert (type(one), str(one)) == (BadInput, "rank 1 on node node-1: no manifest")
    assert str(told([failure(0), failure(1)])) == "no manifest"
    assert str(told([failure(0), failure(1, "another")])) == "rank 0 on node node-0: no manifest"


def test_a_failure_waits_for_the_others_only_as_long_as_they_may_fail_too(monkeypatch: pytest.MonkeyPatch):
    def sign(asked: int | None) -> Sign:
        return Sign(asked, "", "")

    exchange = Exchange()
    exchange.beat(0, 2, sign(4))
    exchange.beat(1, 2, sign(None))
    exchange.fail(failure(1))
    heard = exchange.hear(600)
    assert (heard.failures, heard.settled) == ([failure(1)], False)
    monkeypatch.setattr(line, "_ECHO", 0.0)
    assert exchange.hear(600).settled, "the other one waits for it"
    exchange.beat(0, 2, sign(None))
    assert not exchange.hear(600).settled, "the other one saves, and ends by itself"
    exchange.fail(failure(0))
    assert exchange.hear(600) == ([], [], True, [failure(0), failure(1)], True)
