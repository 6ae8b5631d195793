"""States of a search that a kill or a full disk cut short: the one before is gone on from."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from pipelines.cluster.storage import RunStorage
from pipelines.search.saved_state import can_go_on
from seqgen.core.errors import OperationalError

EARLIER, LATER, LATEST = (f"2026-11-29_19-4{minute}-58" for minute in range(3))


def save(place: Path, session: str) -> dict[str, Path]:
    """The files that Tune writes in a session, by their kind."""
    place.mkdir(exist_ok=True)
    trials = json.dumps({"trial_data": [["trial", "metadata"]], "runner_data": {}}).encode()
    others = pickle.dumps({"ended": {"a": 1}})
    paths = {}
    for kind, content in (
        ("experiment_state", trials),
        ("basic-variant-state", others),  # a pickle, although it is called .json
        ("callback-states", others),
    ):
        suffix = "pkl" if kind == "callback-states" else "json"
        paths[kind] = place / f"{kind}-{session}.{suffix}"
        paths[kind].write_bytes(content)
    return paths


def cut(path: Path) -> None:
    """As a kill leaves what is written in place."""
    path.write_bytes(path.read_bytes()[:-7])


def names(place: Path) -> set[str]:
    return {path.name for path in place.iterdir()}


@pytest.fixture
def storage(tmp_path: Path) -> RunStorage:
    return RunStorage(str(tmp_path), "search")


def test_there_is_none_before_tune_has_written_one(tmp_path: Path, storage: RunStorage):
    assert not can_go_on(storage)
    storage.keep({"run_id": "1"})
    (tmp_path / "search/trial/deep").mkdir(parents=True)
    save(tmp_path / "search/trial/deep", LATER)
    assert not can_go_on(storage)


def test_a_whole_one_is_left_as_it_is(
    tmp_path: Path, storage: RunStorage, capsys: pytest.CaptureFixture[str]
):
    place = tmp_path / "search"
    save(place, EARLIER)
    save(place, LATER)
    (place / f".3f0-tmp-callback-states-{LATER}.pkl").write_bytes(b"half")  # which Tune does not read
    before = names(place)
    assert can_go_on(storage)
    assert names(place) == before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["experiment_state", "basic-variant-state", "callback-states"])
def test_newer_ones_that_are_not_whole_are_set_aside_with_all_that_was_saved_with_them(
    tmp_path: Path, storage: RunStorage, capsys: pytest.CaptureFixture[str], kind: str
):
    place = tmp_path / "search"
    kept = {path.name for path in save(place, EARLIER).values()}
    later, latest = save(place, LATER), save(place, LATEST)
    cut(later[kind])
    latest["experiment_state"].unlink()  # the kill came before it was written
    damaged = {
        path.name for path in (*later.values(), latest["basic-variant-state"], latest["callback-states"])
    }
    content = later[kind].read_bytes()
    assert can_go_on(storage)
    assert names(place) == kept | {f"{name}.damaged" for name in damaged}
    assert Path(f"{later[kind]}.damaged").read_bytes() == content
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(name in said for name in damaged)
    assert said.endswith(f"the search goes on from experiment_state-{EARLIER}.json\n")
    assert can_go_on(storage)
    assert capsys.readouterr().err == ""


def test_where_none_is_whole_it_is_said_what_to_remove_and_nothing_is_renamed(
    tmp_path: Path, storage: RunStorage
):
    place = tmp_path / "search"
    for session in (EARLIER, LATER):
        cut(save(place, session)["experiment_state"])
    before = names(place)
    with pytest.raises(OperationalError, match=f"remove {place}, and it begins anew"):
        can_go_on(storage)
    assert names(place) == before
