"""The kernels of every instruction set that this chip can execute, one after the other."""

from __future__ import annotations

import pytest

from seqgen import native
from seqgen.core.errors import OperationalError
from seqgen.native.build import compile_library, instruction_sets


@pytest.fixture(params=instruction_sets())
def kernels(request, monkeypatch):
    """All fused operations of one instruction set, whether they pay or not; where there is a compiler they must be."""
    monkeypatch.setenv("SEQGEN_KERNELS", request.param)
    try:
        compile_library(request.param)
    except OperationalError as error:
        if "no C++ compiler" in str(error):
            pytest.skip("there is no C++ compiler for the native kernels")
        raise
    native.forget()
    with native.using("all"):
        yield request.param
    monkeypatch.undo()
    native.forget()
