"""Draw new exemplars step by step, as an animated GIF."""

from __future__ import annotations

from pipelines.artifacts.trained_model import load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.figures import load_held_out, need_contexts, write_figure


def animate(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Draw new exemplars step by step, with the window that each step writes through, as an animated GIF."""
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    need_contexts(trained, "the animation")

    from seqgen.drawing.animation import animation

    model, held_out = load_held_out(trained)
    picture = animation(model, held_out, trained.manifest().title, trained.recipe.evaluate.seed)
    write_figure(trained, "animate.gif", picture, "New exemplars drawn step by step")


if __name__ == "__main__":
    run(animate)
