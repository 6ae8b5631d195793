"""Tracking, case 38: what is spooled was damaged; that one run is set aside by name, and everything else goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.doctor import stores
from pipelines.tracking import runs
from pipelines.tracking.spool import Point, RunSpool, set_aside, spool_directory, spools
from seqgen.core.files import write_json
from seqgen.core.locks import held
from tests.finished_run import tiny_recipe
from tests.registries import said

LOCAL = "local-" + "a" * 32
DESCRIPTION = {
    "name": "left",
    "parent": None,
    "start_time": 1,
    "tags": {"kind": "train"},
    "parameters": {"a": "1"},
}


def left(run_id: str) -> RunSpool:
    """What a killed process left of a run that was opened without the server."""
    spool = RunSpool.of(run_id)
    write_json(spool.path / "run.json", DESCRIPTION)
    write_json(spool.path / "status.json", {"status": "RUNNING", "time": 2})
    spool.metrics.append([Point("a", 1.0, 3, 1)])
    return spool


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def another_form(path: Path) -> None:
    path.write_text(json.dumps(["not", "ours"]))


def without_keys(path: Path) -> None:
    path.write_text("{}")


@pytest.mark.parametrize("name", ["run.json", "status.json"])
@pytest.mark.parametrize("damage", [emptied, cut, another_form, without_keys])
def test_38_a_damaged_spool_stops_nothing_but_itself(
    here: Path, name: str, damage: Callable[[Path], None], capsys: pytest.CaptureFixture
) -> None:
    damaged, whole = left(LOCAL), left("local-" + "b" * 32)
    content = (damaged.path / name).read_bytes()
    damage(damaged.path / name)

    runs.check()
    aside = spool_directory() / f"{LOCAL}.damaged"
    assert set_aside() == [aside]
    assert [spool.run_id for spool in spools()] == [whole.run_id]
    warning = capsys.readouterr().err
    assert f"{damaged.path / name}: damaged" in warning
    assert f"set aside in {aside}" in warning

    assert any(found.verdict == "warning" and str(aside) in found.text for found in stores.tracking())
    code, out = said(capsys, "replay")
    assert code == 0, out
    assert f"{aside} is damaged and cannot be sent; mend or delete" in out
    assert ": 2 records sent" in out
    sent = runs.connect().get_run(runs.id_on_server(runs.connect(), whole.run_id))
    assert (sent.info.status, sent.data.metrics) == ("KILLED", {"a": 1.0})
    code, out = said(capsys, "replay")
    assert code == 0, out
    assert str(aside) in out, "as long as it is there"

    (aside / name).write_bytes(content)  # mended, as the message says
    aside.rename(damaged.path)
    code, out = said(capsys, "replay")
    assert (code, set_aside()) == (0, [])
    assert runs.connect().get_run(runs.id_on_server(runs.connect(), LOCAL)).data.metrics == {"a": 1.0}


def test_38_one_that_a_process_works_on_is_left_to_it(here: Path, capsys: pytest.CaptureFixture) -> None:
    damaged = left(LOCAL)
    emptied(damaged.path / "run.json")
    with held(damaged.path / "lock"):
        runs.check()
        assert "left as it is: " in capsys.readouterr().err
        assert damaged.path.is_dir()
    runs.check()
    assert set_aside() == [spool_directory() / f"{LOCAL}.damaged"]
    again = left(LOCAL)
    emptied(again.path / "run.json")
    runs.check()
    assert len(set_aside()) == 2, "one that was set aside before is not overwritten"


@pytest.mark.parametrize("away", [False, True])
def test_38_a_run_whose_spool_is_damaged_is_opened_anew(
    here: Path, away: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With a server, and without one."""
    from pipelines.recipes import load_recipe
    from seqgen.data.manifest import read_manifest
    from tests.sets import write_digits

    if away:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("SEQGEN_TRACKING_REQUIRED", "false")
    write_digits(here / "shards")
    emptied(left(LOCAL).path / "run.json")
    recipe, manifest = load_recipe(str(tiny_recipe(here))), read_manifest(here / "shards")
    opened = runs.open_run(recipe, manifest, run_id=LOCAL)
    assert opened != LOCAL
    assert "set aside in" in capsys.readouterr().err
    runs.close_run(opened, "FINISHED")
