"""Every verb of the command line: the one list that `seqgen`, the runs of all stages and the tests read."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import NamedTuple


class Verb(NamedTuple):
    """`module` runs by itself, too (`python -m`), and its function `name` (with _ for -) is the command.

    help: the first line of the module's docstring, which is shown without importing it.
    """

    name: str
    module: str
    help: str

    def command(self) -> Callable[..., None]:
        """The verb's function, for which its module is imported now."""
        return getattr(importlib.import_module(self.module), self.name.replace("-", "_"))


# The stages of dvc.yaml, from raw files to the report, in order.
STAGES = (
    Verb("fetch", "pipelines.fetch", "Fetch the raw files of the recipe's set and verify them."),
    Verb("shard", "pipelines.shard", "Make the shards and the manifest of the recipe's set."),
    Verb("tune", "pipelines.tune", "Search the settings of search.space with Ray Tune."),
    Verb("train", "pipelines.train", "Train the recipe's model with Ray, or go on with its run."),
    Verb("evaluate", "pipelines.evaluate", "Measure the trained model on held-out images."),
    Verb("register", "pipelines.register", "Register the trained model; champion if its bound is better."),
    Verb("report", "pipelines.report", "Write the run's report and print the table of what came out."),
)
# What one-shot generation is judged by: a table or a figure each.
_ONE_SHOT = (
    Verb(
        "contexts",
        "pipelines.evaluate.contexts",
        "Measure -log p(x | x'_1 ... x'_n) by the number of contexts.",
    ),
    Verb(
        "estimators",
        "pipelines.evaluate.estimators",
        "Measure -log p(x) by estimators that check one another.",
    ),
    Verb(
        "gap",
        "pipelines.evaluate.gap",
        "Measure bounds on train, valid and test alike.",
    ),
    Verb(
        "complexity",
        "pipelines.evaluate.complexity",
        "Measure how complex the images of each split are.",
    ),
    Verb(
        "classify",
        "pipelines.evaluate.classify",
        "Classify Lake's 20 runs, 20 characters of one drawing each.",
    ),
    Verb(
        "recogniser",
        "pipelines.evaluate.recogniser",
        "Train the critics that judge samples.",
    ),
    Verb(
        "recognise",
        "pipelines.evaluate.recognise",
        "Measure how many samples a critic recognises.",
    ),
    Verb(
        "copies",
        "pipelines.evaluate.copies",
        "Measure whether samples are copies of training images.",
    ),
    Verb(
        "figure6",
        "pipelines.evaluate.figure6",
        "Draw figure 6: samples of a model that is shown nothing.",
    ),
    Verb(
        "figure9",
        "pipelines.evaluate.figure9",
        "Draw figure 9: new exemplars, of alphabets seen in training.",
    ),
    Verb(
        "figure10",
        "pipelines.evaluate.figure10",
        "Draw figure 10: new exemplars, of alphabets never seen.",
    ),
    Verb(
        "figure11",
        "pipelines.evaluate.figure11",
        "Draw figure 11: new characters given 1 to 10 of an alphabet.",
    ),
    Verb(
        "animate",
        "pipelines.evaluate.animate",
        "Draw new exemplars step by step, as an animated GIF.",
    ),
    Verb(
        "results",
        "pipelines.evaluate.results",
        "Gather the tables and figures of recipes into one page.",
    ),
)
# What latent variables are for, in any model.
_LATENT = (
    Verb(
        "impute",
        "pipelines.evaluate.impute",
        "Draw missing pixels anew, and score how they are predicted.",
    ),
    Verb(
        "interpolate",
        "pipelines.evaluate.interpolate",
        "Draw the way from one image to another through z.",
    ),
    Verb(
        "compress",
        "pipelines.evaluate.compress",
        "Compress held-out images with bits back, and count the bits.",
    ),
)
_OTHERS = (
    Verb(
        "family",
        "pipelines.evaluate.family",
        "Put the members of the family side by side on one page.",
    ),
    Verb(
        "count",
        "pipelines.evaluate.count",
        "Measure how often the model counts the digits right.",
    ),
    Verb("data", "pipelines.data", "Look at the data of a recipe."),
    Verb(
        "publish",
        "pipelines.publish",
        "Put the recipe's shards where other machines read them.",
    ),
    Verb("verify", "pipelines.verify", "Check a sharded set against its manifest, to the last sample."),
    Verb("retrain", "pipelines.retrain", "Retrain if data, code or settings changed; for a schedule."),
    Verb("models", "pipelines.models", "List and show registered models; move the champion."),
    Verb("serve", "pipelines.serve", "Serve a model over HTTP: a page to draw with, and an API."),
    Verb("trace", "pipelines.trace", "Walk back from a registered model to its raw files."),
    Verb("replay", "pipelines.replay", "Send what was spooled while the tracking server was away."),
    Verb(
        "cluster", "pipelines.cluster.__main__", "Start, stop and show a local Ray cluster that takes jobs."
    ),
    Verb(
        "services",
        "pipelines.services.__main__",
        "Start, stop and show PostgreSQL, S3 and MLflow's server here.",
    ),
    Verb(
        "doctor",
        "pipelines.doctor",
        "Check this machine and what it reaches, and say what to do.",
    ),
    Verb(
        "estimate",
        "pipelines.estimate",
        "Estimate time, memory and cost from a measured step.",
    ),
    Verb(
        "learning-rate",
        "pipelines.learning_rate",
        "Suggest a learning rate: train a few steps while it grows.",
    ),
    Verb("submit", "pipelines.submit", "Submit a verb as a job to a Ray cluster and follow it."),
    Verb(
        "chaos",
        "pipelines.chaos",
        "Kill a training's processes and check that it ends the same.",
    ),
    Verb("quickstart", "pipelines.quickstart", "Make a project in an empty directory."),
    Verb("recipes", "pipelines.recipes.__main__", "List the recipes there are."),
    Verb("show", "pipelines.show", "Print a recipe in full, as YAML that is itself a recipe."),
)
VERBS = {verb.name: verb for verb in (*STAGES, *_ONE_SHOT, *_LATENT, *_OTHERS)}
