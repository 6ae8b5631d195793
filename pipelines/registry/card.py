"""The card of a registered model: what it is, what was measured, under which licence, for what it is fit."""

from __future__ import annotations

import json

from data_prep.licences import LICENCES
from pipelines.artifacts.measurements import bound_rows, read_measurement
from pipelines.artifacts.trained_model import TrainedModel
from pipelines.registry.evaluation import Evaluation
from seqgen.core.yaml import format_yaml
from seqgen.data.manifest import Manifest


def model_card(trained: TrainedModel, evaluation: Evaluation) -> str:
    """Markdown with Hugging Face's front matter; its numbers are those of the run, the evaluation and the registry.

    Raises BadInput if the model was not evaluated.
    """
    recipe, model = trained.recipe, trained.recipe.model
    manifest = Manifest.model_validate_json(trained.manifest_file.read_text())
    measured, metrics = read_measurement(trained)
    name, conditional = recipe.register_.name, model.conditional
    licence = LICENCES[recipe.data.source]
    result = {
        "task": {"type": "unconditional-image-generation"},
        "dataset": {"name": manifest.title, "type": recipe.data.source, "split": evaluation.data["split"]},
        "metrics": [{"type": "free_energy", "name": "nats per image", "value": round(evaluation.mean, 4)}],
    }
    about = {
        "license": licence.identifier,
        "library_name": "seqgen",
        "pipeline_tag": "image-to-image" if conditional else "unconditional-image-generation",
        "tags": ["seqgen", "variational-inference", *(["one-shot-generation"] if conditional else [])],
        "model-index": [{"name": name, "results": [result]}],
    }
    rows = "\n".join(
        f"| {row['name']} | {row['value']:.2f} | {'' if row['se'] is None else format(row['se'], '.2f')} |"
        for row in bound_rows(metrics)
    )
    sample = "model.sample(16, context=drawing)  # [16, H, W], of one drawing [H, W]"
    return f"""---
{format_yaml(about)}---

# {name}

A sequential generative model (Rezende et al. 2016). It draws images of {manifest.height} x {manifest.width} pixels in
{model.steps} steps{", given other drawings of the same kind" if conditional else ""}. Made by seqgen, recipe
`{recipe.name}`.

```python
import seqgen

model = seqgen.load("models:/{name}@champion")
{sample if conditional else "model.sample(16)  # [16, H, W]"}
```

## Data

{manifest.title}: {manifest.splits["train"].images:,} training images; manifest `{manifest.digest}`.

## Training

Epochs: {trained.run["epochs"]}, steps: {trained.run["steps"]}; MLflow run `{trained.run["run_id"]}`; settings
`{trained.run["settings_digest"]}`; weights sha256 `{trained.weights}`. Model settings:
`{json.dumps(recipe.given()["model"], sort_keys=True)}`

## Measured

In nats an image, over {measured["images"]:,} images of `{measured["split"]}`, {measured["binarise"]} pixels. F is an
upper bound of -log p(x).

| what | value | standard error |
|---|---:|---:|
{rows}

It competes in the registry with F = {evaluation.mean:.2f}, over {len(evaluation.bounds):,} images of
`{evaluation.data["split"]}`.

## Licence

seqgen is under the MIT License. It sets none on weights; the front matter has that of the data: {licence.terms}

## Intended use

To draw images like the data, to fill in missing pixels, to compare densities of such images; research and teaching. Not
to recognise or imitate a person's handwriting, nor for a decision about a person.

## Limits

* It knows images of one size, prepared as the data were. Of other images its numbers mean nothing.
* A bound is no likelihood, and a better bound need not look better. Bounds of other data, pixels or splits are not
  comparable.
* What is rare in the training data is drawn badly, and a sample may resemble a training image.
"""
