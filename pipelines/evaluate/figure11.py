"""Draw figure 11: new characters given 1 to 10 of an alphabet."""

from __future__ import annotations

from pipelines.artifacts.held_out import whole_split
from pipelines.artifacts.trained_model import load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.figures import need_contexts, subject, write_figure


def figure11(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Draw what is made of 1, 2, 5 and 10 contexts (figure 11), given by `train.pairs` as in training.

    alphabet: each context is another character of one alphabet, and so is what is drawn. character: all are drawings
    of one character.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    need_contexts(trained, "figure 11", of_character=False)

    from seqgen.drawing import one_shot
    from seqgen.drawing.pictures import png

    config = trained.recipe.train
    given = whole_split(trained, trained.recipe.evaluate.split)
    picture = one_shot.from_several(subject(trained), given, config.pairs)
    what = "characters of an alphabet" if config.pairs == "alphabet" else "drawings of a character"
    title = f"New {what}, given 1 to 10 of it"
    about = {"pairs": config.pairs, "trained_with_contexts": list(config.contexts)}
    write_figure(trained, "figure11.png", png(picture), title, about=about)


if __name__ == "__main__":
    run(figure11)
