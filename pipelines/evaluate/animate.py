"""Draw new exemplars step by step, as an animated GIF."""

from __future__ import annotations

from pipelines.artifacts.trained_model import load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.figures import TemperatureOption, load_held_out, need_contexts, write_figure


def animate(
    recipe: RecipeOption = None, settings: SetOption = None, temperature: TemperatureOption = 1.0
) -> None:
    """Draw new exemplars step by step, with the window that each step writes through, as an animated GIF."""
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    need_contexts(trained, "the animation")

    from seqgen.drawing.animation import animation

    model, held_out = load_held_out(trained)
    title, seed = trained.manifest().title, trained.recipe.evaluate.seed
    picture = animation(model, held_out, title, seed, temperature=temperature)
    write_figure(trained, "animate.gif", picture, "New exemplars drawn step by step", temperature=temperature)


if __name__ == "__main__":
    run(animate)
