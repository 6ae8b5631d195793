"""Where the benchmarks put what they measured: benchmarks/results/<name>.json and a table in a page of docs."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seqgen.core.errors import SeqgenError
from seqgen.core.files import write_bytes, write_json

_ROOT = Path(__file__).parent.parent
RESULTS = _ROOT / "benchmarks" / "results"
DOCS = _ROOT / "docs"
PAGE = DOCS / "performance.md"
# What lowers the instruction set of our kernels, of torch's and of oneDNN's.
_LOWERING = ("SEQGEN_KERNELS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")


def run(main: Callable[[], None]) -> None:
    """Call a benchmark's `main`; what is wrong with its input is one line and an exit code."""
    try:
        main()
    except SeqgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def command() -> str:
    """The command that is running, as a reader would type it in the repository's root."""
    script = Path(sys.argv[0])
    lowered = [f"{name}={os.environ[name]}" for name in _LOWERING if name in os.environ]
    return shlex.join([*lowered, "python", "-m", f"benchmarks.{script.stem}", *sys.argv[1:]])


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on: the chip, its cores, torch."""
    if device.type == "cuda":
        chip = torch.cuda.get_device_name(device)
    else:
        chip = f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "chip": chip,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def publish(name: str, result: dict[str, Any], table: str, to: Path | None = None) -> None:
    """Write `result` as results/<name>.json and `table` (markdown) into the section of that name of PAGE, or of `to`.

    The section lies between `<!-- name -->` and `<!-- /name -->`; what stands around it is written by hand.
    Raises ValueError if the page has no such section.
    """
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", result)
    path = to or PAGE
    page = path.read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"{path}: no section {begin.strip()} ... {end}")
    head, rest = page.split(begin, 1)
    _, tail = rest.split(end, 1)
    write_bytes(path, f"{head}{begin}\n{table.strip()}\n\n{end}{tail}".encode())


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
