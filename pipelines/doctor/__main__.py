"""`python -m pipelines.doctor`."""

from pipelines.cli.command import run
from pipelines.doctor import doctor

if __name__ == "__main__":
    run(doctor)
