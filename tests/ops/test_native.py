"""Building the kernels: every instruction set, the verdict on each operation, and machines where they cannot be had."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from seqgen import native, ops
from seqgen.core.errors import BadInput, OperationalError
from seqgen.native import build as build_module
from seqgen.native.build import chosen, compile_for_wheel, compile_library, instruction_sets
from seqgen.native.verdict import Row, measure, read_verdict, verdict_path
from seqgen.ops.operation import OPERATIONS


def test_the_instruction_set_can_be_chosen_among_those_of_the_chip(monkeypatch):
    monkeypatch.delenv("SEQGEN_KERNELS", raising=False)
    assert chosen() == instruction_sets()[0]
    monkeypatch.setenv("SEQGEN_KERNELS", "off")
    assert chosen() is None
    monkeypatch.setenv("SEQGEN_KERNELS", "mmx")
    with pytest.raises(BadInput, match="SEQGEN_KERNELS=mmx: this chip has"):
        chosen()


def test_off_takes_torch_everywhere(monkeypatch):
    monkeypatch.setenv("SEQGEN_KERNELS", "off")
    native.forget()
    assert not any(native.available(name) for name in OPERATIONS)
    monkeypatch.undo()
    native.forget()


def test_only_what_won_on_this_chip_is_used(kernels, monkeypatch, tmp_path):
    """A verdict as a chip gives it on which one kernel is slower than torch."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_library(kernels)
    rows = [Row(name, 2.0, 1.0 if name != "cgru" else 10.0) for name in OPERATIONS]
    verdict_path(kernels).write_text(json.dumps([row._asdict() for row in rows]))
    native.forget()
    with native.using("winners"):
        assert native.available("lstm")
        assert not native.available("cgru")
    with native.using("none"):
        assert not native.available("lstm")


def test_a_library_that_nobody_measured_is_not_used(kernels, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_library(kernels)
    native.forget()
    with native.using("winners"):
        assert native.loads()
        assert not native.available("lstm")


def test_the_verdict_has_every_operation(kernels, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("seqgen.native.verdict._ROUNDS", 1)
    compile_library(kernels)
    native.forget()
    rows = measure(kernels)
    assert {row.operation for row in rows} == {name for name in OPERATIONS if name != "linear"}
    assert all(row.torch > 0 and row.fused > 0 for row in rows)
    assert read_verdict(kernels) == rows


def test_a_library_that_cannot_be_loaded_is_left_and_said(kernels, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compile_library(kernels).write_bytes(b"of another machine")
    native.forget()
    with pytest.warns(UserWarning, match="is not used"):
        assert not native.available("lstm")


def test_where_there_is_no_compiler_it_says_so_and_everything_works(tmp_path):
    code = (
        "import torch\nfrom seqgen import native\nfrom seqgen.settings import ModelConfig\n"
        "from seqgen.models import build\nassert not native.loads()\n"
        "model = build(ModelConfig(steps=2, hidden=8, read_size=4, write_size=4), 8, 8)\n"
        "model(torch.zeros(2, 1, 8, 8), None, torch.zeros(2, 2, 4)).free_energy().sum().backward()\n"
    )
    bare = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    told = subprocess.run([sys.executable, "-m", "seqgen.native"], env=bare, capture_output=True, text=True)
    assert told.returncode == 1
    assert "install one" in told.stderr
    subprocess.run([sys.executable, "-c", code], env=bare, check=True)


def test_where_there_is_no_compiler_a_wheels_library_is_taken(kernels, monkeypatch, tmp_path):
    compile_for_wheel(tmp_path / "built")
    monkeypatch.setattr(build_module, "SHIPPED", tmp_path / "built")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.forget()
    assert not native.loads()
    path = compile_library(kernels)
    native.forget()
    assert path.read_bytes() == (tmp_path / "built" / f"kernels-{kernels}.so").read_bytes()
    assert native.loads()
    (tmp_path / "built" / f"kernels-{kernels}.so").unlink()
    path.unlink()
    with pytest.raises(OperationalError, match="install one"):
        compile_library(kernels)


def test_the_verdict_is_printed(tmp_path):
    """With the library and the verdict of this machine, or made on the way."""
    told = subprocess.run([sys.executable, "-m", "seqgen.native"], capture_output=True, text=True)
    if told.returncode:
        assert "no C++ compiler" in told.stderr
        pytest.skip("there is no C++ compiler")
    for name in set(OPERATIONS) - {"linear"}:
        assert name in told.stdout


def test_operations_are_functions_with_a_definition():
    for name in OPERATIONS:
        assert getattr(ops, name).__doc__
        assert getattr(ops, name).definition is not None
    assert torch.equal(ops.linear.definition([torch.eye(2)], torch.eye(2), torch.ones(2)), torch.eye(2) + 1)
