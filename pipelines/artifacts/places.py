"""Where the products of a recipe lie, and what a machine remembers between two commands."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from seqgen.core.errors import BadInput, one_line
from seqgen.settings import Recipe


@dataclass(frozen=True)
class Places:
    """Where the products of a recipe lie, relative to the project's directory (all absolute here)."""

    root: Path

    @property
    def raw(self) -> Path:
        """Verified raw files."""
        return self.root / "raw"

    @property
    def shards(self) -> Path:
        """The sharded set the model trains on: tars and manifest."""
        return self.root / "shards"

    @property
    def data_card(self) -> Path:
        """What is said of the set to whom it is given; beside it, so that no word of it is a change of the data."""
        return self.root / "data-card.md"

    @property
    def data_sheet(self) -> Path:
        """A picture of what is trained on, of every split."""
        return self.root / "data-sheet.png"

    @property
    def search(self) -> Path:
        """`best.json` (dotted settings) and `trials.csv`."""
        return self.root / "search"

    @property
    def learning_rate(self) -> Path:
        """What a range test measured, as JSON; beside it, of the same name, its picture."""
        return self.root / "learning-rate.json"

    @property
    def initial(self) -> Path:
        """The model whose weights the training starts from, where `train.initial` asks for one."""
        return self.root / "initial"

    @property
    def train(self) -> Path:
        """`model/` (weights.safetensors, model.json), `history.csv`, `run.json`, `recipe.json`, `manifest.json`."""
        return self.root / "train"

    @property
    def evaluate(self) -> Path:
        """`metrics.json`, `evaluation.json`, `bounds.npy`, `kl_per_step.csv` and `pictures/`."""
        return self.root / "evaluate"

    @property
    def pictures(self) -> Path:
        """The sheets: samples, reconstructions, canvas and, for conditional models, exemplars."""
        return self.evaluate / "pictures"

    @property
    def one_shot(self) -> Path:
        """Tables and sheets of one-shot generation, `<verb>.json` and its picture, and what long verbs keep."""
        return self.root / "one_shot"

    @property
    def critics(self) -> Path:
        """The networks that judge samples, of the recipe's training characters."""
        return self.root / "critics"

    @property
    def register(self) -> Path:
        """`register.json`: version, alias, the reason."""
        return self.root / "register"

    @property
    def report(self) -> Path:
        """`report.html`."""
        return self.root / "report"


def places(recipe: Recipe) -> Places:
    """Where `recipe`'s products lie: `artifacts/<recipe>` (SEQGEN_ARTIFACTS moves `artifacts`). Raises BadInput."""
    return Places(_directory("SEQGEN_ARTIFACTS", "artifacts") / recipe.name)


def state_root() -> Path:
    """SEQGEN_STATE, else `.seqgen` of the working directory: locks, the spool and, by default, checkpoints.

    Raises BadInput.
    """
    return _directory("SEQGEN_STATE", ".seqgen")


def _directory(variable: str, default: str) -> Path:
    """The place that an environment variable names, absolute; BadInput if it is there and no directory."""
    named = os.environ.get(variable) or default
    remedy = f"set {variable} to a directory"
    try:
        if not stat.S_ISDIR(Path(named).stat().st_mode):
            raise BadInput(f"{variable}={named}: a file; {remedy}")
    except FileNotFoundError:
        pass
    except OSError as error:  # a loop of links, a file on the way, a name that is too long
        raise BadInput(f"{variable}={named}: {one_line(error)}; {remedy}") from None
    return Path(named).resolve()
