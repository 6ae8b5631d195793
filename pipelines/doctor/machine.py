"""This machine: room on its disks, its limits, its devices, the native kernels."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipelines.cluster.room import MAKE_ROOM, disks
from pipelines.doctor.findings import Finding, failed, ok, warning

_GIB = 2**30
_LITTLE, _LEAST = 10 * _GIB, _GIB
_FULL = 0.95  # from here on Ray puts nothing on a disk, and ends the workers that ask it to
_HANDLES, _LEAST_HANDLES = 4096, 512
_SHARED_MEMORY = _GIB
_PATIENCE = timedelta(seconds=60)


def disk() -> Iterator[Finding]:
    """Room where runs write: checkpoints, products, state, Ray's own files, temporary files."""
    for path, uses in disks():
        yield room(path, ", ".join(uses))


def room(path: Path, uses: str) -> Finding:
    """Whether the disk that `path` is on has room for its `uses`."""
    total, _, free = shutil.disk_usage(path)
    text = f"{path} ({uses}): {free / _GIB:.1f} of {total / _GIB:.0f} GiB free"
    nodes = os.statvfs(path)
    if nodes.f_files and nodes.f_favail < nodes.f_files // 100:
        return failed(f"{text}, but no room for more files (inodes)", "remove files, such as old caches")
    if free < _LEAST or free < (1 - _FULL) * total:
        return failed(text, MAKE_ROOM)
    return warning(text, MAKE_ROOM) if free < _LITTLE or free < 2 * (1 - _FULL) * total else ok(text)


def limits() -> Iterator[Finding]:
    """How many files a process may have open, and the memory that processes share."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (2**30 if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    text = f"{soft:,} open files a process, and {hard:,} if it asks for more"
    remedy = "ulimit -n 65536 before starting Ray; LimitNOFILE= in a systemd unit, --ulimit nofile= for a container"
    if soft < _LEAST_HANDLES:
        yield failed(text, remedy)
    else:
        yield warning(text, remedy) if soft < _HANDLES else ok(text)
    shared = Path("/dev/shm")
    if sys.platform == "linux":
        size = shutil.disk_usage(shared).total if shared.is_dir() else 0
        text = f"{shared}: {size / _GIB:.2f} GiB"
        enough = size >= _SHARED_MEMORY
        yield (
            ok(text)
            if enough
            else warning(
                f"{text}; Ray then keeps objects on disk",
                "give the container more: --shm-size=2g, an emptyDir in memory",
            )
        )


def devices() -> Iterator[Finding]:
    """CPUs and GPUs, and whether processes can add their gradients over them: gloo and, with GPUs, NCCL."""
    import torch

    from seqgen.core.machine import cores, memory

    yield ok(f"{cores()} CPUs, {memory() / _GIB:.1f} GiB of memory, torch {torch.__version__}")
    gpus = torch.cuda.device_count()
    for number in range(gpus):
        about = torch.cuda.get_device_properties(number)
        yield ok(f"GPU {number}: {about.name}, {about.total_memory / _GIB:.0f} GiB")
    if not gpus and any(Path("/dev").glob("nvidia[0-9]*")):
        yield failed(
            f"there is an NVIDIA GPU, and torch {torch.__version__} cannot use it",
            "install the CUDA build of torch, or the driver that it asks for (nvidia-smi shows the one there is)",
        )
    yield all_reduce("gloo", 2)
    if gpus:
        yield all_reduce("nccl", gpus)


def all_reduce(backend: str, processes: int) -> Finding:
    """Whether `processes` processes of this machine can sum over `backend` (NCCL: a GPU each)."""
    import torch.multiprocessing

    text = f"{backend}: a sum over {processes} process{'es' if processes > 1 else ''}"
    with tempfile.TemporaryDirectory() as directory:
        try:
            torch.multiprocessing.spawn(_sum, (backend, processes, f"{directory}/rendezvous"), processes)
        except Exception as error:
            cause = next(
                (line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__
            )
            remedy = (
                "the machine must reach itself by its own host name (/etc/hosts), or name the interface: "
                f"{backend.upper()}_SOCKET_IFNAME=lo"
            )
            return failed(f"{text} fails: {cause.strip()[:200]}", remedy)
    return ok(f"{text} is right")


def _sum(rank: int, backend: str, size: int, place: str) -> None:
    import torch
    from torch import distributed

    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    options: dict[str, Any] = {"device_id": device} if backend == "nccl" else {}
    distributed.init_process_group(
        backend, init_method=f"file://{place}", rank=rank, world_size=size, timeout=_PATIENCE, **options
    )
    value = torch.full((1000,), rank + 1.0, device=device)
    distributed.all_reduce(value)
    distributed.destroy_process_group()
    if not (value == size * (size + 1) / 2).all():
        raise RuntimeError(f"the sum is {value[0].item()}, not {size * (size + 1) / 2}")


def kernels() -> Iterator[Finding]:
    """The native kernels for this chip, and which of them are used: those that are faster here."""
    from seqgen import native
    from seqgen.native.build import chosen
    from seqgen.native.verdict import complete, read_verdict

    instructions, remedy = chosen(), "python -m seqgen.native"
    if instructions is None:
        yield ok("off, as SEQGEN_KERNELS says; torch computes everything")
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loads = native.loads()
    if not loads:
        why = str(said[0].message) if said else f"not built for {instructions}"
        yield warning(f"{why}; training on CPUs is slower", remedy)
        return
    verdict = read_verdict(instructions)
    if verdict is None or not complete(verdict):
        yield warning(
            f"built for {instructions}, but not all are measured, and only what is measured is used", remedy
        )
        return
    used = [row.operation for row in verdict if row.used]
    yield ok(f"{instructions}: {len(used)} of {len(verdict)} operations are faster than torch's and used")
