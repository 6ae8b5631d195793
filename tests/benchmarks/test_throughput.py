"""The throughput benchmark end to end on a tiny specification: what it writes, and that it refuses a wrong model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import page, rows, throughput
from benchmarks.measure import in_turns, products_of
from benchmarks.specs import SPECIFICATIONS, Specification, workload
from seqgen import native
from seqgen.native.build import chosen

CPU = torch.device("cpu")
TINY = Specification(
    "sgm-omniglot-30-20",
    ("model.steps=2", "model.hidden=8", "model.posterior_hidden=8", "evaluate.importance_samples=3"),
)


@pytest.fixture
def page_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "performance.md"
    path.write_text("before\n<!-- throughput -->\n<!-- /throughput -->\nafter\n")
    monkeypatch.setattr(page, "PAGE", path)
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    return path


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["the best there are", "off"])
def kernels(request, monkeypatch: pytest.MonkeyPatch):
    """The kernels of the machine, if they are built, and torch alone."""
    with monkeypatch.context() as patch:
        if request.param == "off":
            patch.setenv("SEQGEN_KERNELS", "off")
        native.forget()
        yield request.param
    native.forget()


@pytest.mark.usefixtures("threads")
def test_one_row_end_to_end(page_of_ours: Path, monkeypatch: pytest.MonkeyPatch, kernels: str):
    monkeypatch.setitem(SPECIFICATIONS, "draw-10", TINY)
    throughput.main(["--only", "draw-10", "--batch", "4", "--rounds", "1"])

    (row,) = json.loads((page.RESULTS / "throughput.json").read_text())["rows"]
    assert row["settings"] == list(TINY.settings)
    assert row["machine"]["threads"] == row["threads"] == 1
    for part in ("training", "sampling", "nll"):
        rates = [row[part][who]["images_per_second"] for who in rows.WHO]
        assert row[part]["ratio"] == pytest.approx(rates[1] / rates[0])
    step = row["training"]
    peak = max(row["peak"]["float32"].values())
    assert step["seqgen"]["gflops"] == pytest.approx(step["flops"] / step["seqgen"]["median_seconds"] / 1e9)
    assert step["seqgen"]["share_of_peak"] == pytest.approx(step["seqgen"]["gflops"] / peak)
    assert row["nll"]["k"] == 3
    # As many (image, sample) pairs as seqgen's whole images have.
    assert row["nll"]["textbook"]["images"] == pytest.approx(row["nll"]["seqgen"]["images"], rel=0.2)
    for who in rows.WHO:
        assert row["fresh"][who]["peak_bytes"] > 0
        assert row["fresh"][who]["first_step_seconds"] > 0
    assert row["instructions"] in {"off", kernels if kernels == "off" else chosen()}
    assert row["command"].startswith("SEQGEN_KERNELS=off python") == (kernels == "off")
    text = page_of_ours.read_text()
    assert text.count(f"| draw-10 | {row['instructions']} | 4 | float32 |") == 2
    assert text.count("\n1. `") == 1
    assert row["command"] in text
    assert row["machine"]["chip"] in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_another_row_replaces_only_its_own():
    key = {"batch": 4, "precision": "float32", "threads": 1, "compiled": False, "instructions": "avx512"}
    old, other = ({**key, "name": name, "rate": 1} for name in ("draw-10", "sgm-80"))
    new = {**old, "rate": 2}
    assert rows.merged([other, old], [new]) == [new, other]
    assert rows.merged([old], [{**old, "threads": 2}])[0] == old
    lower = {**new, "instructions": "avx2"}
    assert rows.merged([lower, other], [new]) == [new, lower, other], "side by side"


def test_a_model_that_is_not_the_textbooks_is_refused():
    work = workload(TINY, 4, CPU)
    throughput.check(work)
    with torch.no_grad():
        work.plain.start["h0"].add_(1.0)
    with pytest.raises(AssertionError, match="free energy"):
        throughput.check(work)


def test_a_step_trains_both_alike():
    work = workload(TINY, 4, CPU)
    mode = throughput.Mode("cpu", "float32", False, torch.get_num_threads())
    ours, theirs = (throughput.training_step(work, who, mode) for who in ("seqgen", "textbook"))
    for _ in range(2):
        losses = float(ours()), float(theirs())
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert float(ours()) < losses[0]


def test_products_are_counted_forward_and_backward():
    layer, x = torch.nn.Linear(30, 20), torch.randn(10, 30)
    flops, seconds = products_of(lambda: layer(x).sum().backward(), 1, CPU)
    assert flops == 2 * (2 * 10 * 30 * 20)  # the product, and the weight's gradient
    assert seconds > 0


def test_actions_take_turns():
    seen: list[str] = []
    seconds = in_turns({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 2, CPU)
    assert "".join(seen) == "ab" + "ab" + "ba"
    assert [len(seconds[name]) for name in "ab"] == [2, 2]
