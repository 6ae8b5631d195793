"""The fused kernels of seqgen.ops for CPUs: built once by `python -m seqgen.native`, never while a run waits.

Where there is no compiler, or none was called, or torch is faster on this chip, torch computes the same.
SEQGEN_KERNELS names another instruction set than the chip's best (`avx2` on one with AVX-512), or says `off`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import warnings
from collections.abc import Iterator
from typing import Any, Literal

from seqgen.native.build import chosen, library_path
from seqgen.native.verdict import read_verdict

Use = Literal["winners", "all", "none"]
_use: Use = "winners"


@functools.cache
def _load() -> ctypes.CDLL | None:
    instructions = chosen()
    path = None if instructions is None else library_path(instructions)
    if path is None or not path.exists():
        return None
    import torch  # noqa: F401  (its OpenMP must be there first, so that both use one pool of threads)

    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # another system's library on a shared home, a home that may not be executed
        warnings.warn(
            f"{path} is not used ({error}); remove it and run python -m seqgen.native", stacklevel=2
        )
        return None
    for name, sizes in (("cgru_kept", 3), ("filterbank_kept", 3)):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_long, [ctypes.c_long] * sizes
    return library


@functools.cache
def _winners() -> frozenset[str]:
    instructions = chosen()
    verdict = None if instructions is None else read_verdict(instructions)
    return frozenset(row.operation for row in verdict or () if row.used)


def loads() -> bool:
    """Whether the kernels are built and can be loaded here."""
    return _load() is not None


def available(operation: str) -> bool:
    """Whether the fused version of an operation of seqgen.ops is there, and on this chip faster than torch's."""
    if _use == "none" or _load() is None:
        return False
    return _use == "all" or operation in _winners()


@contextlib.contextmanager
def using(use: Use) -> Iterator[None]:
    """Inside it all fused versions that are built are taken, or none, to test and to measure them."""
    global _use
    before, _use = _use, use
    try:
        yield
    finally:
        _use = before


def forget() -> None:
    """Look again, at the next call, for what is built and what SEQGEN_KERNELS says."""
    _load.cache_clear()
    _winners.cache_clear()
    _functions.clear()


_C_TYPES = {int: ctypes.c_long, float: ctypes.c_float}
_functions: dict[str, Any] = {}


def call(name: str, *arguments: Any) -> None:
    """Call a kernel: sizes as long, numbers as float, tensors as pointers, None as null.

    The caller keeps the tensors, contiguous and of the shapes that the kernel expects, until it is back.
    """
    function = _functions.get(name)
    if function is None:
        function = getattr(library(), name)
        function.argtypes = [_C_TYPES.get(type(a), ctypes.c_void_p) for a in arguments]
        function.restype = None
        _functions[name] = function
    function(*[a if a is None or isinstance(a, int | float) else a.data_ptr() for a in arguments])


def library() -> ctypes.CDLL:
    """The loaded kernels; call it where `available` said yes."""
    loaded = _load()
    assert loaded is not None
    return loaded


def keep_freed_memory() -> None:
    """From now on this process keeps memory that it freed, for a training whose every step takes the same again."""
    loaded = None if _use == "none" else _load()
    if loaded is not None:
        loaded.keep_freed_memory()
