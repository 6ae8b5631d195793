"""What all verbs share: the options every one takes, and errors turned into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from data_prep.errors import SeqgenError, one_line

RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="Recipe name or YAML file; default: params.yaml's, if it names one."),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override one setting: train.epochs=3.")]


def run(command: Callable[..., None], arguments: list[str] | None = None) -> None:
    """Run a verb as a command line and exit: 0 ok, 1 operational, 2 bad input, 3 numerical, 4 stopped but saved."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app(args=arguments, prog_name=f"seqgen {command.__name__.replace('_', '-')}")
    except SeqgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a missing permission: nobody nearer knew better
        print(f"error: {one_line(error) or type(error).__name__}", file=sys.stderr)
        sys.exit(1)
