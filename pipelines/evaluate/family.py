"""Put the members of the family side by side on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.artifacts.held_out import evaluated_images, images_of
from pipelines.artifacts.measurements import read_measurement
from pipelines.artifacts.one_shot import read_tables
from pipelines.artifacts.places import places
from pipelines.artifacts.trained_model import TrainedModel, load_as_recipe
from pipelines.cli.command import run
from pipelines.evaluate import estimators, impute, interpolate
from pipelines.evaluate.count import count_metric
from pipelines.evaluate.results import MachineOption, ToOption
from pipelines.recipes import load_recipe
from pipelines.tracking.lineage import PREFIX
from pipelines.tracking.runs import runs_with
from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes, write_json

if TYPE_CHECKING:
    from PIL import Image

# The member, and the recipe that trains it.
MEMBERS = {
    "sgm": "mnist-first",
    "sgm-local": "mnist-local",
    "draw": "draw-first",
    "vae": "vae-mnist",
    "iwae": "iwae-mnist",
    "dlgm": "dlgm-mnist",
    "sbn": "sbn-mnist",
    "darn": "darn-mnist",
    "convdraw": "convdraw-mnist",
    "cst-vae": "cst-vae",
    "air": "air",
}
TEMPLATE = Path(__file__).parent / "templates" / "family.md"
_SAMPLES = 12
_TABLES = (estimators.TITLE, impute.TITLE, interpolate.TITLE)
MembersArgument = Annotated[
    list[str] | None, typer.Argument(help="Members; default: all that were trained and evaluated here.")
]


def family(
    members: MembersArgument = None, to: ToOption = Path("docs/results"), machine: MachineOption = ""
) -> None:
    """Write family.json and pictures below --to, and the page family.md beside that folder.

    Each member is what its recipe's `train` and `evaluate` left, run by run of MLflow; `compress`, `count`,
    `estimators`, `impute` and `interpolate` add theirs where they were run.
    """
    import jinja2

    from seqgen.drawing.pictures import png

    trained = {member: _read(member) for member in members or _known()}
    if not trained:
        raise BadInput(
            "no member was trained and evaluated here; run `train` and `evaluate` of a recipe, for example vae-mnist"
        )
    rows = [_row(member, one) for member, one in trained.items()]
    counted = {"air_count_accuracy_by_seed": _counted(MEMBERS["air"]) if "air" in trained else []}
    tables, pictures = _tables(trained)
    others = _others(list(trained.values()))
    numbers = {"members": rows, **others, **counted, "tables": tables, "machine": machine}
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**numbers, folder=to.name)
    write_json(to / "family.json", numbers)
    pictures["family.png"] = png(_sheet(trained))
    for name, content in pictures.items():
        write_bytes(to / name, content)
    write_bytes(to.parent / "family.md", page.encode())
    print(f"written: {to.parent / 'family.md'}, {to / 'family.json'}, {len(pictures)} pictures")


def _known() -> list[str]:
    return [
        member
        for member, recipe in MEMBERS.items()
        if (places(load_recipe(recipe)).evaluate / "metrics.json").is_file()
    ]


def _read(member: str) -> TrainedModel:
    """Raises BadInput for a member that there is not, and one that was trained otherwise than its recipe says."""
    if member not in MEMBERS:
        raise BadInput(f"{member}: no such member; known: {', '.join(MEMBERS)}")
    return load_as_recipe(MEMBERS[member])


def _row(member: str, trained: TrainedModel) -> dict[str, Any]:
    """What the page says of a member. Bounds in nats an image of the split that was evaluated."""
    measured, metrics = read_measurement(trained)
    recipe, run = trained.recipe, trained.run
    weighted = next(key for key in metrics if key.startswith("iwae_") and f"{key}_se" in metrics)
    return {
        "member": member,
        "recipe": recipe.name,
        "run": run.get("run_id"),
        "data": trained.manifest().title,
        "split": f"{measured['split']}/{measured['binarise']}",
        "bound": metrics["bound"],
        "se": metrics["bound_se"],
        "nll": metrics[weighted],
        "nll_se": metrics[f"{weighted}_se"],
        "k": int(weighted.removeprefix("iwae_")),
        "pixel_means": _pixel_means(trained),
        "images": run["steps"] * recipe.train.batch,
        "seconds": round(trained.seconds),
        "workers": recipe.train.workers,
        "command": f"python -m pipelines.train --recipe {recipe.name}",
    }


def _pixel_means(trained: TrainedModel) -> float:
    """What independent pixels with the training images' means pay, nats an image of the same held-out images."""
    import torch

    from seqgen.data.batches import fixed_set
    from seqgen.evaluation.imputation import pixel_means, score_of_means

    held_out = evaluated_images(trained)
    recipe = trained.recipe
    train, _ = fixed_set(images_of(trained, "train"), recipe.data, False, recipe.evaluate.seed)
    means = pixel_means(train.unsqueeze(1))
    x = held_out.x.float()
    return float(score_of_means(means, x, torch.ones_like(x, dtype=torch.bool)).mean())


def _others(trained: list[TrainedModel]) -> dict[str, Any]:
    """What `compress` and `count` measured of these models."""
    found: dict[str, Any] = {"bits_back": None, "air_count_accuracy": None}
    for one in trained:
        for table in read_tables(one):
            entries, about = table["entries"], {"command": table["command"], "recipe": one.recipe.name}
            if "bits_back_over_bound" in entries and found["bits_back"] is None:
                bits = {
                    name: entry["value"] for name, entry in entries.items() if entry["unit"] == "bits/pixel"
                }
                ratio = entries["bits_back_over_bound"]["value"] / 100
                images = entries["bits_back_over_bound"]["images"]
                found["bits_back"] = {
                    "rate_over_bound": ratio,
                    "images": images,
                    "bits_per_pixel": bits,
                    **about,
                }
            if "count_accuracy" in entries:
                accuracy = entries["count_accuracy"]
                found["air_count_accuracy"] = accuracy["value"]
                found["air_count_accuracy_se"] = accuracy["se"]
    return found


def _tables(trained: dict[str, TrainedModel]) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What other verbs measured of these models, and their pictures by the name that each has on the page."""
    tables, pictures = [], {}
    for member, one in trained.items():
        for table in read_tables(one):
            if table["title"] not in _TABLES:
                continue
            picture = None
            if name := table["about"].get("picture"):
                picture, path = f"family-{member}-{name}", one.places.one_shot / name
                if not path.is_file():
                    raise BadInput(f"{path}: not there; run `{table['command']}` again")
                pictures[picture] = path.read_bytes()
            kept = {key: table[key] for key in ("title", "recipe", "split", "command", "entries")}
            page = "estimators.md" if table["title"] == estimators.TITLE else "evaluation.md"
            tables.append({**kept, "member": member, "page": page, "picture": picture})
    return tables, pictures


def _counted(recipe: str) -> list[dict[str, Any]]:
    """What the runs of a recipe, of every seed that it was trained with, count right; the newest run of each seed."""
    wanted = load_recipe(recipe)
    metric, of_seed = count_metric(wanted), {}
    for one in runs_with(wanted.name, metric):
        seed = int(one.data.params["train.seed"])
        same = load_recipe(recipe, [f"train.seed={seed}"]).digest()
        if one.data.tags[f"{PREFIX}settings_digest"] == same and seed not in of_seed:
            values = {"accuracy": one.data.metrics[metric], "se": one.data.metrics[f"{metric}_se"]}
            of_seed[seed] = {"seed": seed, **values, "run": one.info.run_id}
    return [of_seed[seed] for seed in sorted(of_seed)]


def _sheet(trained: dict[str, TrainedModel]) -> Image.Image:
    """Of each member held-out images, these drawn again through q(z | x), and samples; sizes are their own."""
    import torch

    from seqgen.data.batches import generator_at
    from seqgen.drawing.composing import stacked
    from seqgen.drawing.galleries import tiles
    from seqgen.drawing.one_shot import draw
    from seqgen.drawing.pictures import Row, Sheet, render
    from seqgen.evaluation.bounds import subset

    parts = []
    for member, one in trained.items():
        model, held_out, seed = one.load(), evaluated_images(one), one.recipe.evaluate.seed
        x = held_out.take(subset(len(held_out), _SAMPLES, seed, "family")).x.float()
        with torch.no_grad():
            noise = model.noise(len(x), generator_at(torch.device("cpu"), seed, "family, of x"))
            again = model.infer(x, None, noise).likelihood.mean
        rows = {"x": x, "of q(z | x)": again, "of p(z)": draw(model, _SAMPLES, seed, "family")}
        caption = (
            f"{one.manifest().title}. Held-out x; {model.step.observation.pictures}, c of q(z | x) and p(z)."
        )
        sheet = Sheet(
            [Row(tiles(each, 64), name) for name, each in rows.items()], title=member, caption=caption
        )
        parts.append(render(sheet))
    return stacked(parts)


if __name__ == "__main__":
    run(family)
