"""What all verbs share: the options every one takes, and errors turned into one line and an exit code."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from seqgen.core.errors import SeqgenError, StoppedEarly, one_line


def recipes_from(start: str) -> list[str]:
    """The names of recipes that begin so: what a shell completes."""
    from pipelines.recipes import recipe_names

    return [name for name in recipe_names() if name.startswith(start)]


RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Recipe name or YAML file; default: params.yaml's, if it names one.",
        autocompletion=recipes_from,
    ),
]
BadShardOption = Annotated[
    Literal["refuse", "skip"],
    typer.Option(
        "--on-bad-shard", help="skip: leave damaged training shards out of the set, which then says so."
    ),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override one setting: train.epochs=3.")]


def run(command: Callable[..., None], arguments: list[str] | None = None) -> None:
    """Run a verb's function as a command line of its own and exit; see `run_app`."""
    run_app(app_of(command), f"seqgen {command.__name__.replace('_', '-')}", arguments)


def app_of(command: Callable[..., None]) -> typer.Typer:
    """The command line of one verb."""
    app = plain_app()
    app.command()(command)
    return app


def plain_app(**options: Any) -> typer.Typer:
    """A Typer without markup: help and errors are plain, and rich is not imported for them."""
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
    plain = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
    return typer.Typer(context_settings=settings, **{**plain, **options})


def run_app(app: typer.Typer, program: str, arguments: list[str] | None) -> None:
    """Run and exit: 0 ok, 1 operational, 2 bad input, 3 numerical, 4 stopped but saved; `arguments`: sys.argv's."""
    # What torch and MLflow made lives to the end: to look through it once more for garbage takes a second.
    atexit.register(gc.freeze)
    try:
        app(args=arguments, prog_name=program)
    except (SeqgenError, StoppedEarly) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a missing permission: nobody nearer knew better
        print(f"error: {one_line(error) or type(error).__name__}", file=sys.stderr)
        sys.exit(1)
