"""The dispatch benchmark: each way computes the same, and the operators are proper ones."""

from __future__ import annotations

import pytest
import torch

from benchmarks import dispatch
from seqgen import native, ops
from seqgen.core.errors import BadInput


@pytest.fixture
def _kernels():
    if not native.loads():
        pytest.skip("the native kernels are not built (python -m seqgen.native)")


@pytest.mark.usefixtures("_kernels")
def test_every_way_is_the_operation():
    inputs = [torch.rand(3, 2, 5, 7), torch.randn(3, 6)]
    seen = []
    for way in (*dispatch.ways().values(), ops.affine_sample):
        image, matrix = (part.clone().requires_grad_() for part in inputs)
        out = way(image, matrix, 4, 6)
        out.square().sum().backward()
        seen.append((out.detach(), image.grad, matrix.grad))
    for one in seen[:-1]:
        for ours, expected in zip(one, seen[-1], strict=True):
            assert float(expected.abs().max()) > 0
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_kernels")
@pytest.mark.parametrize("name", ["custom", "defined"])
def test_the_operators_are_proper_ones(name: str):
    dispatch.ways()
    image, matrix = torch.rand(3, 2, 5, 7, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    torch.library.opcheck(getattr(torch.ops.seqgen_dispatch, name).default, (image, matrix, 4, 6))


@pytest.mark.usefixtures("_kernels")
def test_the_table_has_every_way(capsys: pytest.CaptureFixture[str]):
    threads = torch.get_num_threads()
    dispatch.main(["--rounds", "1"])
    torch.set_num_threads(threads)
    shown = capsys.readouterr().out
    assert all(f"| {name} |" in shown for name in dispatch.ways())


def test_without_kernels_it_says_how_to_build_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEQGEN_KERNELS", "off")
    native.forget()
    with pytest.raises(BadInput, match=r"python -m seqgen\.native"):
        dispatch.main(["--rounds", "1"])
    monkeypatch.undo()
    native.forget()
