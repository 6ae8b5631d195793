"""The verb that compresses: its table by counting, the file it leaves, and what it refuses."""

from __future__ import annotations

import gzip
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.artifacts.held_out import evaluated_images
from pipelines.artifacts.one_shot import read_tables
from pipelines.evaluate.compress import compress, general_purpose
from seqgen.compression import decode, unpack
from seqgen.core.errors import BadInput
from seqgen.evaluation.bounds import free_energies
from seqgen.models import load_model
from tests.finished_run import finished_run, outside, tiny_recipe, work_in


@pytest.fixture
def project(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", outside()["PYTHONPATH"])
    return tmp_path


def test_the_table_counts_the_file_and_stands_beside_the_bound(project, capsys):
    recipe = tiny_recipe(project)
    trained = finished_run(recipe)
    compress(str(recipe), None)
    (table,) = read_tables(trained)
    values = {name: one["value"] for name, one in table["entries"].items()}
    held_out = evaluated_images(trained)
    pixels = held_out.x.numel()

    content = (trained.places.one_shot / "compress.bits").read_bytes()
    header, words = unpack(content)
    model = load_model(trained.model)
    assert (decode(model, content) == held_out.x).all()
    assert values["bits_back"] == 8 * len(content) / pixels
    assert values["bits_back_words"] == 32 * len(words) / pixels
    assert values["bits_back_net"] == 32 * (len(words) - header.initial_words) / pixels
    assert table["about"]["initial_bits"] == 32 * header.initial_words > 0
    free_energy = free_energies(model, held_out, trained.recipe.evaluate.seed).free_energy
    assert values["bound"] == pytest.approx(free_energy.mean().item() / 784 / math.log(2))
    assert values["net_over_bound"] == pytest.approx(100 * values["bits_back_net"] / values["bound"])
    assert values["bits_back_over_bound"] == pytest.approx(100 * values["bits_back"] / values["bound"])
    packed = np.packbits(held_out.x.numpy()).tobytes()
    assert values["gzip"] == 8 * len(gzip.compress(packed, 9)) / pixels
    assert {"bz2", "lzma", "png"} < set(values)
    out = capsys.readouterr().out
    assert f"{values['bits_back']:.4f} bits/pixel" in out
    assert "compress.bits" in out


def test_fewer_images_are_a_random_sample_and_the_command_says_so(project):
    recipe = tiny_recipe(project)
    trained = finished_run(recipe)
    compress(str(recipe), None, 6)
    table = json.loads((trained.places.one_shot / "compress.json").read_text())
    assert table["command"].endswith(" --images 6")
    assert {one["images"] for one in table["entries"].values()} == {6}


def test_a_png_is_one_of_each_image():
    images = (np.random.default_rng(0).random((3, 1, 28, 28)) < 0.2).astype(np.uint8)
    sizes = []
    for image in images[:, 0]:
        stream = io.BytesIO()
        picture = Image.fromarray(image * np.uint8(255)).convert("1")
        picture.save(stream, "png", optimize=True)
        sizes.append(len(stream.getvalue()))
        assert np.array_equal(np.asarray(Image.open(stream)), image)
    assert general_purpose(images)["png"] == sum(sizes)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch has one way here")
def test_a_fresh_process_that_computes_otherwise_is_no_success(project, monkeypatch, capfd):
    recipe = tiny_recipe(project)
    trained = finished_run(recipe)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # this process has made its choice
    with pytest.raises(BadInput, match="decoding in a fresh process ended with code 2"):
        compress(str(recipe), None)
    assert "instructions was" in capfd.readouterr().err
    assert not read_tables(trained)
    assert not (trained.places.one_shot / "compress.bits").exists()


def test_a_conditional_model_is_refused(project):
    recipe = tiny_recipe(project, conditional=True)
    finished_run(recipe)
    with pytest.raises(BadInput, match="conditional=true: compression does not code contexts"):
        compress(str(recipe), None)
