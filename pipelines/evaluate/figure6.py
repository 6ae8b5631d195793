"""Draw figure 6: samples of a model that is shown nothing."""

from __future__ import annotations

from pipelines.artifacts.trained_model import load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.figures import subject, write_figure
from seqgen.core.errors import BadInput


def figure6(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Draw characters from the prior (figure 6), and the most and least likely held-out drawings.

    The recipe is unconditional, or has 0 among `train.contexts`: its model has learned what to do without a context.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    conditional, contexts = trained.recipe.model.conditional, trained.recipe.train.contexts
    if conditional and 0 not in contexts:
        raise BadInput(
            f"train.contexts={list(contexts)} in {trained.recipe.name}: the model was never trained without a context; "
            "name a recipe that has 0 there, or an unconditional one"
        )

    from seqgen.drawing import one_shot
    from seqgen.drawing.pictures import png

    how = "no context, of a model trained with and without" if conditional else "of an unconditional model"
    picture = one_shot.unconditional(subject(trained, 0 if conditional else 1), how)
    write_figure(
        trained, "figure6.png", png(picture), "Characters drawn from the prior", about={"model": how}
    )


if __name__ == "__main__":
    run(figure6)
