"""The `seqgen` command: `seqgen VERB ...` is `python -m pipelines.VERB ...`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from pipelines.cli.command import app_of, plain_app, run_app
from pipelines.cli.verbs import VERBS


def _say_version(wanted: bool) -> None:
    if wanted:
        import seqgen

        print(f"seqgen {seqgen.__version__}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Say the version and exit.", is_eager=True, callback=_say_version)
]


class _LazyVerbs(TyperGroup):
    """Holds names and lines of help; a verb's module is imported when it is called, and no other's."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, get_command(app_of(VERBS[name].command())) if name else None, rest


def main(arguments: list[str] | None = None) -> None:
    """Run `seqgen VERB ...` and exit with the verb's code; an unknown verb is bad input (2)."""
    app = plain_app(
        cls=_LazyVerbs, add_completion=True, options_metavar="", subcommand_metavar="VERB [OPTIONS]"
    )

    @app.callback()
    def seqgen(version: VersionOption = False) -> None:
        """Train and operate sequential generative models.

        `seqgen VERB --help` says what a verb takes.
        """

    for verb in VERBS.values():
        app.command(verb.name, short_help=verb.help)(lambda: None)
    run_app(app, "seqgen", (sys.argv[1:] if arguments is None else arguments) or ["--help"])


if __name__ == "__main__":
    main()
