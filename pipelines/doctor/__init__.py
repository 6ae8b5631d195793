"""Check this machine and what it reaches, and say what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Annotated

import typer

from pipelines.doctor import installed, machine, network, stores
from pipelines.doctor.findings import Finding, failed
from seqgen.core.errors import BadInput, OperationalError, SeqgenError, one_line

ChecksArgument = Annotated[list[str] | None, typer.Argument(help="Only these checks.")]
FixOption = Annotated[bool, typer.Option("--fix", help="Remove unfinished uploads from the storage.")]
OlderOption = Annotated[
    float, typer.Option("--older-than", min=0, help="Minutes after which an upload is left over.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")]


def doctor(
    checks: ChecksArgument = None,
    fix: FixOption = False,
    older_than: OlderOption = 60,
    as_json: JsonOption = False,
) -> None:
    """Check versions, ports, Ray's authentication, storage rights, published shards, disk, clock, devices, kernels,
    tracking, limits.

    Ends with 1 if one fails; warnings do not count.
    """
    storage = partial(stores.storage, fix, timedelta(minutes=older_than))
    every: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": installed.versions,
        "limits": machine.limits,
        "disk": machine.disk,
        "ports": network.ports,
        "ray": network.ray,
        "storage": storage,
        "shards": stores.shards,
        "tracking": stores.tracking,
        "clock": network.clock,
        "kernels": machine.kernels,
        "devices": machine.devices,
    }
    if unknown := [name for name in checks or () if name not in every]:
        raise BadInput(f"{', '.join(unknown)}: no such check; there are {', '.join(every)}")
    found = [(name, finding) for name in checks or every for finding in _findings(every[name])]
    if as_json:
        print(json.dumps([{"check": name, **finding._asdict()} for name, finding in found], indent=2))
    elif sys.stdout.isatty():
        _table(found)
    else:
        _lines(found)
    failures = sum(finding.verdict == "failed" for _, finding in found)
    if failures:
        raise OperationalError(f"{failures} of {len(found)} checks failed")


def _findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check found; one that cannot be made is a failed one."""
    try:
        yield from check()
    except SeqgenError as error:
        yield failed(str(error), "see the message")
    except Exception as error:
        yield failed(f"cannot be checked: {type(error).__name__}: {one_line(error)}", "see the message")


def _lines(found: list[tuple[str, Finding]]) -> None:
    for name, finding in found:
        print(f"{finding.verdict:8} {name:9} {finding.text}")
        if finding.remedy:
            print(f"{'':18} do: {finding.remedy}")


def _table(found: list[tuple[str, Finding]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warning": "yellow", "failed": "bold red"}
    table = Table("check", "verdict", "found", "do")
    for name, finding in found:
        verdict = Text(finding.verdict, colours[finding.verdict])
        table.add_row(Text(name), verdict, Text(finding.text), Text(finding.remedy))
    Console().print(table)
