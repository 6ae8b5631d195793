"""The scaling benchmark: the estimate against numbers worked out by hand, and every figure of a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.scaling import Cluster, Gpu, Model
from benchmarks.specs import Specification
from seqgen.training import ProcessGroup

TINY = Model(
    Specification(
        "quickstart", ("model.steps=1", "model.hidden=8", "model.latents=2", "train.batch=8", "search=null")
    ),
    (160, 40),
)


def test_a_ring_sends_each_part_twice_around():
    ring = Cluster(4, bandwidth=1e9, latency=1e-3, link="")
    assert scaling.all_reduce_seconds(ring, 8e6) == pytest.approx(6 * (2e-3 + 1e-3))  # 6 messages of 2 MB
    assert scaling.all_reduce_seconds(Cluster(1, 1e9, 1e-3, ""), 8e6) == 0


def test_the_estimate_by_hand():
    one, ring = Gpu(1000.0, 100, "an assumption"), Cluster(2, bandwidth=1e9, latency=0.0, link="")
    row = scaling.on_paper(ring, one, 25e6, 100_000)
    assert row["all_reduce_seconds"] == pytest.approx(0.025)  # beside 0.1 s for 100 images
    assert row["images_per_second"] == pytest.approx(200 / 0.125)
    assert row["efficiency"] == pytest.approx(0.8)
    assert row["minutes"] == pytest.approx(100_000 / 1600 / 60)
    assert row["updates"] == 500


def test_a_measured_gpu_takes_the_place_of_the_assumption(tmp_path: Path):
    assert scaling.gpu(tmp_path).source == "an assumption"
    rows = [
        {
            "name": name,
            "batch": batch,
            "precision": "bfloat16",
            "machine": {"chip": "a GPU"},
            "training": {"seqgen": {"images_per_second": rate}, "textbook": {"images_per_second": 9e9}},
        }
        for name, batch, rate in (("sgm-80", 256, 500.0), ("sgm-80", 1024, 900.0), ("draw-10", 1024, 5000.0))
    ]
    (tmp_path / "throughput-cuda.json").write_text(json.dumps({"rows": rows}))
    assert scaling.gpu(tmp_path) == Gpu(900.0, 1024, "measured, a GPU, bfloat16")


def test_the_ends_of_an_epoch_are_shares_of_its_training():
    row = {
        "images": (1000, 200),
        "images_per_second": {"2 x 1": 50.0},
        "checkpoint": 0.5,
        "held_out_image": 0.01,
    }
    spent = scaling.ends_of_epoch(row, logging=0.1)
    assert spent["training"] == (20.0, 1.0)
    assert spent["checkpoint"] == (0.5, 0.025)
    assert spent["logging"] == (0.1, 0.005)
    assert spent["held out"] == (2.0, 0.1)


def test_the_first_epoch_is_not_counted_and_the_first_process_saves():
    (row,) = scaling.trained(ProcessGroup(), TINY.specification, steps=2, epochs=2)
    assert row.keys() == {"rate", "held_out_image", "checkpoint"}
    assert all(value > 0 for value in row.values())


@pytest.mark.slow
def test_every_mode_of_a_tiny_model_is_measured():
    row = scaling.measure(TINY, steps=2, epochs=2, rounds=1)
    assert row["images_per_second"].keys() == {"1 x 1", "1 x 2", "2 x 1"}
    parameters = scaling.build(TINY.specification.resolved().model, 28, 28, 0.1).parameters()
    assert row["exchange"]["bytes"] == 4 * sum(parameter.numel() for parameter in parameters)
    assert all(row["exchange"][kind] > 0 for kind in ("summed", "apart", "alone"))
    shown = scaling.tables({"models": {"tiny": row}, "logging": 0.01, "paper": scaling.paper()})
    assert "| tiny | 160 / 40 |" in shown
    assert "an assumption" in shown or "measured" in shown
