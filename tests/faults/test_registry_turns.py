"""Case 41: two retrainings register at once; they take turns, and who dies in his turn holds up nobody for long."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.registry import moves, turns, versions
from pipelines.registry.competition import competition
from pipelines.tracking import runs
from tests.fault_proxy import FaultProxy, Slow
from tests.finished_run import WORSE, finished_run, tiny_recipe
from tests.mlflow_server import MlflowServer
from tests.registries import REGISTER, another, champion, go, registered


@pytest.mark.slow
def test_41_two_retrains_that_register_at_once(
    server: MlflowServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both versions exist, one is champion, the better one, and both say why."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    for round_, means in enumerate([(None, WORSE), (WORSE, None)]):
        name = f"at-once-{round_}"
        places = [here / f"{round_}-{each}" for each in range(2)]
        for place, mean in zip(places, means, strict=True):
            place.mkdir()
            monkeypatch.chdir(place)
            finished_run(tiny_recipe(place, register={"name": name}), mean=mean)
        processes = [another(REGISTER, server.uri, place) for place in places]
        for process in processes:
            go(process)
        assert [process.wait(500) for process in processes] == [0, 0]
        results = [
            json.loads((place / "artifacts/tiny/register/register.json").read_text()) for place in places
        ]
        assert {result["version"] for result in results} == {"1", "2"}
        better = results[means.index(None)]
        assert better["promoted"]
        client = runs.connect()
        found = client.search_model_versions(f"name='{name}'")
        assert len(found) == 2
        assert champion(name) == better["version"]
        newest = versions.by_alias(client, name, versions.CANDIDATE)
        assert newest is not None
        assert str(newest.version) == "2"
        for each in found:
            assert each.tags["promotion_reason"]
            expected = ["promoted"] if str(each.version) == champion(name) else ["replaced", "not promoted"]
            assert each.tags["promotion"] in expected
        assert not client.get_registered_model(name).tags  # no ticket is left


def test_41_a_version_that_comes_late_to_its_turn_leaves_the_newer_one_candidate(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But registered again, which makes no version, the older one takes the alias."""
    client = runs.connect()
    older = finished_run(tiny_recipe(here), mean=WORSE)
    newer = finished_run(tiny_recipe(here, name="other", register={"name": "tiny"}))
    turn = versions.turn
    added: list[str] = []

    def while_we_wait(client: MlflowClient, name: str) -> Any:
        if not added:
            added.append("soon")
            added.append(versions.add_version(client, newer, competition(newer)[0]).version)
        return turn(client, name)

    monkeypatch.setattr(versions, "turn", while_we_wait)
    for holder in ("2", "1"):
        assert str(versions.add_version(client, older, competition(older)[0]).version) == "1"
        assert str(client.get_model_version_by_alias("tiny", versions.CANDIDATE).version) == holder


COUNT = """
from pipelines.registry import turns
from pipelines.tracking import runs
turns._EVERY = 0.05
client = runs.connect()
print("there", flush=True)
input()
for _ in range(8):
    with turns.turn(client, "{name}"):
        count = int(client.get_registered_model("{name}").tags.get("count", "0"))
        client.set_registered_model_tag("{name}", "count", str(count + 1))
"""


HOLD = """
from pipelines.registry import turns
from pipelines.tracking import runs
turns.LEASE = 20.0
client = runs.connect()
with turns.turn(client, "{name}") as ours:
    print("there", flush=True)
    input()
    ours.check()
    client.set_registered_model_tag("{name}", "moved", "by who came too late")
"""


@pytest.mark.slow
def test_41_only_one_process_at_a_time_has_the_turn(server: MlflowServer, tmp_path: Path) -> None:
    """Three processes read, add one and write, eight times each: no count is lost."""
    client = runs.connect(server.uri)
    client.create_registered_model("counted")
    processes = [another(COUNT.format(name="counted"), server.uri, tmp_path) for _ in range(3)]
    for process in processes:
        go(process)
    assert [process.wait(500) for process in processes] == [0, 0, 0]
    assert client.get_registered_model("counted").tags == {"count": "24"}


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_41_the_turn_of_a_holder_that_died_or_hangs_is_taken_over(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    """The next one waits for the lease; a holder that wakes up after it moves nothing."""
    name = f"held-{stop.name}"
    client = runs.connect(server.uri)
    client.create_registered_model(name)
    holder = another(HOLD.format(name=name), server.uri, tmp_path)
    holder.send_signal(stop)
    monkeypatch.setattr(turns, "LEASE", 20.0)
    before = time.monotonic()
    with turns.turn(client, name) as ours:
        ours.check()
    assert time.monotonic() - before > 20
    if stop == signal.SIGSTOP:
        holder.send_signal(signal.SIGCONT)
        go(holder)
    assert holder.wait(60) != 0
    assert "moved" not in client.get_registered_model(name).tags
    with turns.turn(client, name):  # at once: the dead ticket counts no more
        pass


# Draws its ticket once another one is drawn, and is less patient than that one's holder.
RIVAL = """
import time
from pipelines.registry import turns
from pipelines.tracking import runs
turns.LEASE = 30.0
client = runs.connect()
print("there", flush=True)
input()
def of_turns():
    tags = client.get_registered_model("{name}").tags
    return [text for key, text in tags.items() if key.startswith("seqgen.turn.") and not text.startswith("0 ")]
while not of_turns():
    time.sleep(0.05)
with turns.turn(client, "{name}"):
    model = client.get_registered_model("{name}")
    print(model.aliases.get("champion"), "seqgen.move" in model.tags, len(of_turns()))
"""


@pytest.mark.slow
def test_41_a_promotion_goes_through_a_slow_registry_and_nobody_comes_between(
    server: MlflowServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn takes longer than the lease; who waits meanwhile waits to its end."""
    monkeypatch.setattr(turns, "LEASE", 40.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    name = "slow"
    trained = finished_run(tiny_recipe(here, register={"name": name}))
    version = versions.add_version(runs.connect(), trained, competition(trained)[0])
    rival = another(RIVAL.format(name=name), server.uri, here)
    go(rival)
    with FaultProxy(server.port) as proxy:
        client = runs.connect(proxy.address)
        proxy.inject(Slow(3.0), where=lambda request: "registered-models" in request.path, times=None)
        assert moves.crown(client, version, None, "the first")
    said, _ = rival.communicate(timeout=500)
    assert (rival.returncode, said) == (0, f"{version.version} False 1\n")
    assert champion(name) == version.version
    assert not runs.connect().get_registered_model(name).tags


def test_41_a_champion_put_there_meanwhile_is_judged_again(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another promotion between our judging and our moving is not overwritten."""
    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    best = finished_run(recipe)
    client = runs.connect()
    rival = versions.add_version(client, best, competition(best)[0])
    mediocre = finished_run(recipe, mean=0.3)
    inspect = moves.inspect
    calls: list[str] = []

    def while_we_look(client: MlflowClient, version: Any) -> None:
        inspect(client, version)
        if not calls:
            client.set_registered_model_alias("tiny", "champion", rival.version)
        calls.append(version.version)

    monkeypatch.setattr(moves, "inspect", while_we_look)
    result = registered(mediocre)
    assert not result["promoted"]
    assert result["champion"] == str(rival.version)
    assert "worse by" in result["reason"]
