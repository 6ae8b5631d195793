"""Draw figure 9: new exemplars, of alphabets seen in training."""

from __future__ import annotations

from pipelines.artifacts.trained_model import load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.figures import TemperatureOption, need_contexts, subject, write_figure
from seqgen.core.errors import BadInput

TITLE = "New exemplars of characters never seen: the weak split"


def figure9(
    recipe: RecipeOption = None, settings: SetOption = None, temperature: TemperatureOption = 1.0
) -> None:
    """Draw new exemplars of ten characters never seen of known alphabets (figure 9), given one drawing of each."""
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    need_contexts(trained, "figure 9")
    if trained.recipe.data.split != "weak":
        raise BadInput(
            f"data.split={trained.recipe.data.split} in {trained.recipe.name}: figure 9 is of the split weak; "
            "use figure10 for new alphabets"
        )

    from seqgen.drawing import one_shot
    from seqgen.drawing.pictures import png

    picture = one_shot.exemplars(subject(trained, temperature=temperature), TITLE)
    write_figure(trained, "figure9.png", png(picture), TITLE, temperature=temperature)


if __name__ == "__main__":
    run(figure9)
