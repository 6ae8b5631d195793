"""Case 45: malicious versions are refused, and nothing of them is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import seqgen
from pipelines.registry import versions
from pipelines.registry.inspection import FILES_TAG, files_digest
from pipelines.tracking import runs
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import file_sha256, write_json
from seqgen.serving.loading import DESCRIPTION_TAG, WEIGHTS_TAG
from tests.finished_run import WORSE, finished_run, stored, tiny_recipe
from tests.registries import champion, registered, said, version


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "boom")


def edit_description(files: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = files.parent / "MLmodel"
    tree = yaml.safe_load(path.read_text())
    change(tree["flavors"]["python_function"])
    path.write_text(yaml.safe_dump(tree))


def test_45_a_malicious_version_is_refused_and_runs_nothing(
    here: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write artifacts and tags plants it and signs it, too; nothing that he planted is run."""
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    registered(finished_run(recipe))
    client = runs.connect()
    clean, files = here / "clean", stored(here)
    shutil.copytree(files.parent, clean)
    boom = here / "boom"
    bomb = pickle.dumps(Bomb(boom))
    pickle.loads(bomb)
    assert boom.exists()  # it does go off where somebody unpickles
    boom.unlink()
    (here / "loader_elsewhere.py").write_text(f"open({str(boom)!r}, 'w').write('boom')\n")
    monkeypatch.syspath_prepend(str(here))

    def pickled_weights() -> None:
        (files / "model/weights.safetensors").write_bytes(bomb)
        description = json.loads((files / "model/model.json").read_text())
        digest = file_sha256(files / "model/weights.safetensors")
        write_json(files / "model/model.json", {**description, "sha256": digest})

    def pickled_model() -> None:
        (files.parent / "python_model.pkl").write_bytes(bomb)
        edit_description(
            files,
            lambda flavor: flavor.update(
                python_model="python_model.pkl", loader_module="mlflow.pyfunc.model"
            ),
        )

    def pickled_bounds() -> None:
        np.save(files / "bounds.npy", np.array([Bomb(boom)], dtype=object), allow_pickle=True)

    def artifact_above() -> None:
        edit_description(
            files,
            lambda flavor: flavor["artifacts"]["model"].update(path="../../../../clean/artifacts/model"),
        )

    plants: list[tuple[Callable[[], object], str, bool]] = [
        (pickled_weights, "", True),
        (lambda: (files / "model/extra.pkl").write_bytes(bomb), "extra.pkl", True),
        (lambda: (files / "model/extra.json").write_bytes(bomb), "extra.json", True),
        (pickled_model, "MLmodel", True),
        (
            lambda: edit_description(files, lambda f: f.update(loader_module="loader_elsewhere")),
            "loader_elsewhere",
            True,
        ),
        (lambda: edit_description(files, lambda f: f.update(code="../../code")), "outside the version", True),
        (lambda: edit_description(files, lambda f: f.update(model_code_path="other.py")), "other.py", True),
        (artifact_above, "outside the version", True),
        (lambda: (files.parent / "code/seqgen/hidden.pkl").write_bytes(bomb), "may hold a pickle", False),
        (lambda: (files.parent / "code/seqgen/hidden.txt").write_bytes(bomb), "may hold a pickle", False),
        (pickled_bounds, "", False),
    ]
    for plant, why, by_load in plants:
        shutil.rmtree(files.parent)
        shutil.copytree(clean, files.parent)
        plant()
        signed = {
            FILES_TAG: files_digest(files.parent),
            WEIGHTS_TAG: file_sha256(files / "model/weights.safetensors"),
            DESCRIPTION_TAG: file_sha256(files / "model/model.json"),
            versions.BOUNDS_TAG: file_sha256(files / "bounds.npy"),
        }
        versions.set_tags(client, version("1"), signed)
        if by_load:  # the others are nothing that it fetches
            with pytest.raises((BadInput, OperationalError), match=why):
                seqgen.load("models:/tiny/1")
        for words in (("rollback", "tiny"), ("promote", "tiny", "1", "--force")):
            if plant is pickled_bounds:
                words = ("promote", "tiny", "1")  # its bounds are what is read to decide
            code, out = said(capsys, "models", *words)
            assert code in ((0,) if plant is pickled_bounds else (1, 2)), out
            assert why in out
            assert champion() == "2"
        assert not boom.exists(), plant
    assert "loader_elsewhere" not in sys.modules

    source = client.create_model_version(
        "tiny", (here / "clean").as_uri(), tags={"a": "b"}
    )  # not by seqgen at all
    code, out = said(capsys, "models", "promote", "tiny", str(source.version), "--force")
    assert (code, champion()) == (2, "2")
    assert "not registered by seqgen" in out


def test_45_both_files_replaced_together_are_noticed(here: Path) -> None:
    """They agree with each other, but not with the registry."""
    recipe = tiny_recipe(here)
    trained = finished_run(recipe)
    registered(trained)
    finished_run(recipe, mean=WORSE, seed=7)
    shutil.copytree(trained.model, stored(here) / "model", dirs_exist_ok=True)
    with pytest.raises(OperationalError, match="not the registry's"):
        seqgen.load("models:/tiny/1")
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@pytest.mark.parametrize(
    "uri", ["models:/tiny", "models:/../x@champion", "models:/m-0123", "models:/a/../b/1"]
)
def test_45_a_name_that_leads_elsewhere_is_refused(here: Path, uri: str) -> None:
    with pytest.raises(BadInput, match="write models:/"):
        seqgen.load(uri)
