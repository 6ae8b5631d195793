"""Compiling the kernels for this chip, one library for each instruction set."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import publish, write_bytes

_HERE = Path(__file__).parent
SHIPPED = _HERE / "built"  # what a wheel brings: a library for each instruction set of its kind of processor
# No -ffast-math: it would hide the NaN that stops a diverged run.
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
# What each instruction set needs of the chip, as its list of features names it, the best first. A chip's best one is
# built for just this chip; the others for any chip that has them, to test and measure them where more is at hand.
_SETS = {
    "avx512": (
        ("avx512f", "avx512vl", "avx512bw", "avx512dq"),
        ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"),
    ),
    "avx2": (("avx2", "fma"), ("-mavx2", "-mfma", "-mno-avx512f")),
    "neon": (("asimd",), ()),
    "generic": ((), ()),
}


def instruction_sets() -> list[str]:
    """The instruction sets this chip can execute, the best first; `generic` only where there is no other."""
    features = set(_features())
    if platform.machine() in ("arm64", "aarch64"):
        features.add("asimd")
    able = [name for name, (needed, _) in _SETS.items() if needed and features.issuperset(needed)]
    return able or ["generic"]


def chosen() -> str | None:
    """The instruction set in use: the chip's best, or what SEQGEN_KERNELS says; None for `off`. Raises BadInput."""
    able, said = instruction_sets(), os.environ.get("SEQGEN_KERNELS", "")
    if said == "off":
        return None
    if said and said not in able:
        raise BadInput(f"SEQGEN_KERNELS={said}: this chip has {', '.join(able)}; or say off")
    return said or able[0]


def compile_library(instructions: str) -> Path:
    """Compile the kernels, if that was not done, into the user's cache and return the library's path.

    Without a C++ compiler it is the wheel's library, if it brought one. Raises OperationalError if there is neither, or
    the compiler fails.
    """
    path = library_path(instructions)
    if path.exists():
        return path
    shipped = _shipped(SHIPPED, instructions)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _compiler() is None and shipped.is_file():
            write_bytes(path, shipped.read_bytes())
            return path
        return _compile(_architecture(instructions), path)
    except OSError as error:
        raise OperationalError(
            f"{path}: {error.strerror or error}; set XDG_CACHE_HOME to a writable place"
        ) from error


def compile_for_wheel(directory: Path) -> list[Path]:
    """Compile a library for each instruction set of this kind of processor, for any chip that has it; their paths.

    Raises OperationalError as `compile_library`, BadInput on a processor whose instruction sets have no name here.
    """
    names = {"x86_64": ("avx512", "avx2"), "aarch64": ("neon",), "arm64": ("neon",)}.get(platform.machine())
    if names is None:
        raise BadInput(f"{platform.machine()}: no kernels to ship; build the wheel without them")
    directory.mkdir(parents=True, exist_ok=True)
    return [_compile(_SETS[name][1], _shipped(directory, name)) for name in names]


def _shipped(directory: Path, instructions: str) -> Path:
    return directory / f"kernels-{instructions}.so"


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")


def _compile(architecture: tuple[str, ...], path: Path) -> Path:
    compiler = _compiler()
    if compiler is None:
        raise OperationalError("no C++ compiler (c++, g++ or CXX): install one, for example g++")
    code = [str(source) for source in _sources() if source.suffix == ".cpp"]
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        built = Path(directory) / path.name
        for parallel in (["-fopenmp"], []):  # Apple's clang has no OpenMP; one thread is then used
            done = subprocess.run(
                [compiler, *_FLAGS, *architecture, *parallel, *code, "-o", str(built)],
                capture_output=True,
                text=True,
            )
            if done.returncode == 0:
                publish(built, path)
                return path
    raise OperationalError(f"{compiler} {' '.join(code)}: {done.stderr.strip()}")


def library_path(instructions: str) -> Path:
    """Where the library for this source, these flags and this chip lies."""
    identity = hashlib.sha256(b"".join(source.read_bytes() for source in _sources()))
    parts = [*_FLAGS, *_architecture(instructions), platform.machine(), *_features(), *platform.libc_ver()]
    identity.update("\n".join(parts).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111, never raises
    return cache / "seqgen" / f"kernels-{instructions}-{identity.hexdigest()[:16]}.so"


def _architecture(instructions: str) -> tuple[str, ...]:
    return ("-march=native",) if instructions == instruction_sets()[0] else _SETS[instructions][1]


def _sources() -> list[Path]:
    return sorted(path for path in _HERE.iterdir() if path.suffix in (".cpp", ".h"))


def _features() -> list[str]:
    """The chip's features as Linux lists them, so that a library from another chip on a shared home is not loaded."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().split()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return line.partition(":")[2].split()
