"""Where one training step's time goes: `python -m benchmarks.profiling sgm-80 DIRECTORY [--device cuda]`.

Writes a trace for chrome://tracing or Perfetto and a table of the kernels that take longest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.specs import SPECIFICATIONS, workload
from benchmarks.throughput import Mode, add_mode, mode_of, training_step
from seqgen.core.files import write_bytes

_WARM_UP = 3  # steps, after which nothing is compiled, chosen or allocated any more
_ROWS = 40


def write_profile(name: str, batch: int, mode: Mode, directory: Path) -> str:
    """Profile one step of seqgen; writes <name>-<mode>.txt and .json.gz into `directory`, returns the table."""
    device = mode.enter()
    step = training_step(workload(SPECIFICATIONS[name], batch, device), "seqgen", mode)
    for _ in range(_WARM_UP):
        step()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize(device)
    with profile(activities=activities) as profiler:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"profile-{name}-{mode.precision}{'-compiled' if mode.compiled else ''}"
    profiler.export_chrome_trace(str(directory / f"{stem}.json.gz"))
    order = f"self_{device.type}_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=_ROWS, max_name_column_width=70)
    write_bytes(directory / f"{stem}.txt", table.encode())
    return table


def main() -> None:
    """Profile what the command line names and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiling", description=__doc__)
    parser.add_argument("name", choices=list(SPECIFICATIONS))
    parser.add_argument("directory", type=Path)
    add_mode(parser)
    options = parser.parse_args()
    mode, batch = mode_of(options)
    print(write_profile(options.name, batch, mode, options.directory))


if __name__ == "__main__":
    main()
