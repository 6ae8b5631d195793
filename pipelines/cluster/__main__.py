"""Start, stop and show a local Ray cluster that takes jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.command import run

ActionArgument = Annotated[Literal["up", "down", "status", "files", "drain"], typer.Argument()]
PortOption = Annotated[int, typer.Option(help="Where the nodes meet.")]
DashboardOption = Annotated[int, typer.Option(help="Dashboard and jobs, on 127.0.0.1.")]


def cluster(action: ActionArgument, port: PortOption = 6379, dashboard_port: DashboardOption = 8265) -> None:
    """Start (up), stop (down) or show (status) the local cluster; files: list what a job would upload.

    drain: stop the running jobs of the cluster at 127.0.0.1:--dashboard-port and wait until they have saved.
    """
    from pipelines.cluster import head
    from pipelines.cluster.upload import upload

    none = "no cluster of this directory is running"
    if action == "up":
        print(head.explain(head.up(port, dashboard_port)))
    elif action == "down":
        print("stopped" if head.down() else none)
    elif action == "drain":
        jobs = head.stop_jobs(f"http://127.0.0.1:{dashboard_port}")
        print(f"stopped {', '.join(jobs)}" if jobs else "no job is running")
    elif action == "files":
        sizes = upload(Path())
        for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
            print(f"{size:10,}  {name}")
        print(f"{sum(sizes.values()):10,}  bytes in {len(sizes)} files")
    else:
        state = head.running()
        print(head.explain(state) if state else none)
        raise typer.Exit(0 if state else 1)


if __name__ == "__main__":
    run(cluster)
