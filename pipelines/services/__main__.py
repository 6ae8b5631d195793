"""Start, stop and show PostgreSQL, S3 and MLflow's server here."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipelines.cli.command import run

ActionArgument = Annotated[Literal["up", "down", "status"], typer.Argument()]
PortOption = Annotated[int, typer.Option(help="MLflow's, on 127.0.0.1.")]


def services(action: ActionArgument, port: PortOption = 5055) -> None:
    """Start (up), stop (down) or show (status) tracking and storage of one's own, without Docker; data are kept."""
    from pipelines.services import stack

    if action == "up":
        print(stack.explain(stack.up(port)))
    elif action == "down":
        stopped = stack.down()
        print(f"stopped: {', '.join(stopped)}" if stopped else "no service of this directory is running")
    else:
        state = stack.running()
        print(stack.explain(state) if state else "no service of this directory is running")
        if missing := [name for name in stack.SERVICES if name not in state]:
            print(f"not running: {', '.join(missing)}")
            raise typer.Exit(1)


if __name__ == "__main__":
    run(services)
