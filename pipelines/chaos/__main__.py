"""`python -m pipelines.chaos`."""

from pipelines.chaos import chaos
from pipelines.cli.command import run

if __name__ == "__main__":
    run(chaos)
