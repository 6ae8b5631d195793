"""`python -m pipelines.evaluate`: the stage of the line."""

from pipelines.cli.command import run
from pipelines.evaluate import evaluate

if __name__ == "__main__":
    run(evaluate)
