"""The native kernels: built once by `python -m seqgen.native`, used where they are, never compiled while a run waits.

Where there is no compiler, or the kernels were not built for this chip, the pure torch path computes the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from seqgen.core.errors import OperationalError
from seqgen.core.files import publish

_HERE = Path(__file__).parent
_SOURCES = [_HERE / name for name in ("kernels.cpp", "products.cpp", "vectors.h")]
# No -ffast-math: it would hide the NaN that stops a diverged run.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_enabled = True


def build() -> Path:
    """Compile the kernels for this chip into the user's cache and return the library's path.

    Raises OperationalError if there is no C++ compiler or it fails.
    """
    path = _path()
    if path.exists():
        return path
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        raise OperationalError("no C++ compiler (c++, g++ or CXX): install one, for example g++")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _compile(compiler, path)
    except OSError as error:
        raise OperationalError(
            f"{path}: {error.strerror or error}; set XDG_CACHE_HOME to a writable place"
        ) from error


def _compile(compiler: str, path: Path) -> Path:
    code = [str(source) for source in _SOURCES if source.suffix == ".cpp"]
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        built = Path(directory) / path.name
        for parallel in (["-fopenmp"], []):  # Apple's clang has no OpenMP; one thread is then used
            done = subprocess.run(
                [compiler, *_FLAGS, *parallel, *code, "-o", str(built)], capture_output=True, text=True
            )
            if done.returncode == 0:
                publish(built, path)
                return path
    raise OperationalError(f"{compiler} {' '.join(code)}: {done.stderr.strip()}")


def built() -> bool:
    """Whether the kernels for this machine are there."""
    return _path().exists()


@functools.cache
def _load() -> ctypes.CDLL | None:
    if not built():
        return None
    import torch  # noqa: F401  (its OpenMP must be there first, so that both use one pool of threads)

    try:
        library = ctypes.CDLL(str(_path()))
    except OSError as error:  # another system's library on a shared home, a home that may not be executed
        warnings.warn(
            f"{_path()} is not used ({error}); remove it and run python -m seqgen.native", stacklevel=2
        )
        return None
    for name, sizes in (("cgru_kept", 3), ("bank_kept", 3), ("linear_laid", 2)):
        function = getattr(library, name)
        function.restype, function.argtypes = ctypes.c_long, [ctypes.c_long] * sizes
    return library


def library() -> ctypes.CDLL | None:
    """The kernels, or None where they were not built."""
    return _load() if _enabled else None


def keep_freed_memory() -> None:
    """From now on this process keeps memory that it freed, for a training whose every step takes the same again."""
    kernels = library()
    if kernels is not None:
        kernels.keep_freed_memory()


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Inside it the pure torch path is taken, to compare the two."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def _path() -> Path:
    """Where the library for this source, these flags and this chip lies."""
    identity = hashlib.sha256(b"".join(source.read_bytes() for source in _SOURCES))
    identity.update("\n".join([*_FLAGS, platform.machine(), _chip(), "-".join(platform.libc_ver())]).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111, never raises
    return cache / "seqgen" / f"kernels-{identity.hexdigest()[:16]}.so"


def _chip() -> str:
    """The instruction sets, so that a library from another chip on a shared home is not loaded."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
