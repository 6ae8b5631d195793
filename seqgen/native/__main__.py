"""`python -m seqgen.native`: build the kernels for this machine, find out which of them pay here, and say so."""

from __future__ import annotations

import sys

from seqgen import native
from seqgen.core.errors import SeqgenError
from seqgen.native.build import chosen, compile_library
from seqgen.native.verdict import Row, complete, measure, read_verdict


def main() -> int:
    """Exit code 0 if they are there, 1 if not: everything works without them, more slowly."""
    try:
        instructions = chosen()
        if instructions is None:
            print("SEQGEN_KERNELS=off: torch computes everything")
            return 0
        path = compile_library(instructions)
        native.forget()
        verdict = read_verdict(instructions)
        if native.loads() and not complete(verdict):
            verdict = measure(instructions)
    except SeqgenError as error:
        print(
            f"native kernels not built: {error}\nseqgen works without them, more slowly on a CPU",
            file=sys.stderr,
        )
        return 1
    print(f"native kernels for {instructions}: {path}")
    for line in _table(verdict or []):
        print(line)
    return 0


def _table(rows: list[Row]) -> list[str]:
    width = max((len(row.operation) for row in rows), default=0)
    lines = [f"  {'':{width}}  torch, ms  fused, ms  times faster"]
    for row in rows:
        which = "" if row.used else "  torch's is used"
        times = f"{1e3 * row.torch:9.2f}  {1e3 * row.fused:9.2f}  {row.torch / row.fused:12.2f}"
        lines.append(f"  {row.operation:{width}}  {times}{which}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
