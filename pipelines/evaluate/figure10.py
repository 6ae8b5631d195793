"""Draw figure 10: new exemplars, of alphabets never seen."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from pipelines.artifacts.trained_model import load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.figures import TemperatureOption, need_contexts, subject, write_figure
from seqgen.core.errors import BadInput

TITLE = "New exemplars of alphabets never seen"
_SPLITS = ("30-20", "40-10", "45-5")

WithOption = Annotated[
    list[str] | None,
    typer.Option("--with", help="Another recipe whose sheet goes beside this one; may be repeated."),
]


def figure10(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    others: WithOption = None,
    temperature: TemperatureOption = 1.0,
) -> None:
    """Draw new exemplars of characters of alphabets never seen (figure 10), given one drawing of each.

    `--with one-shot-40-10 --with one-shot-45-5` puts the three splits side by side.
    """
    raise_on_stop()
    shown = [
        load_trained_model(recipe, settings or ()),
        *(load_trained_model(other) for other in others or ()),
    ]
    for trained in shown:
        need_contexts(trained, "figure 10")
        if trained.recipe.data.split not in _SPLITS:
            raise BadInput(
                f"data.split={trained.recipe.data.split} in {trained.recipe.name}: figure 10 is of the splits "
                f"{', '.join(_SPLITS)}; use figure9 for the split weak"
            )

    from seqgen.drawing import composing, one_shot
    from seqgen.drawing.pictures import png

    columns = 10 if len(shown) == 1 else 6
    sheets = [
        one_shot.exemplars(subject(trained, 1, temperature), f"{TITLE}: {trained.recipe.data.split}", columns)
        for trained in shown
    ]
    beside = [f"{trained.recipe.name} {trained.weights}" for trained in shown[1:]]
    about = {"beside": beside, "options": shlex.join(f"--with={other}" for other in others or ())}
    picture = png(composing.beside(sheets))
    write_figure(shown[0], "figure10.png", picture, TITLE, about=about, temperature=temperature)


if __name__ == "__main__":
    run(figure10)
