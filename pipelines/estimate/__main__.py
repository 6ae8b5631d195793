"""`python -m pipelines.estimate`."""

from pipelines.cli.command import run
from pipelines.estimate import estimate

if __name__ == "__main__":
    run(estimate)
