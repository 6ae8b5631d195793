"""What all verbs share: the options every one takes, and errors turned into one line and an exit code."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from seqgen.core.errors import SeqgenError, one_line

RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="Recipe name or YAML file; default: params.yaml's, if it names one."),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override one setting: train.epochs=3.")]


def run(command: Callable[..., None], arguments: list[str] | None = None) -> None:
    """Run a verb as a command line and exit: 0 ok, 1 operational, 2 bad input, 3 numerical, 4 stopped but saved."""
    # Without markup help and errors are plain, and rich is not imported for them.
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    # What torch and MLflow made lives to the end: to look through it once more for garbage takes a second.
    atexit.register(gc.freeze)
    app.command()(command)
    try:
        app(args=arguments, prog_name=f"seqgen {command.__name__.replace('_', '-')}")
    except SeqgenError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a missing permission: nobody nearer knew better
        print(f"error: {one_line(error) or type(error).__name__}", file=sys.stderr)
        sys.exit(1)
