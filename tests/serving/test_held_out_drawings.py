"""Held-out drawings: of the test split, of one character, different ones, the same from the same seed."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqgen.core.errors import BadInput
from seqgen.data.images import load_split
from seqgen.data.manifest import read_manifest
from seqgen.serving.http.app import make_app
from seqgen.serving.http.held_out import Drawings, HeldOutDrawings
from seqgen.serving.http.limits import Limits
from seqgen.serving.http.served import Served, load_source
from seqgen.serving.http.service import Service
from tests.asgi import Answer, ask, asking
from tests.served_models import from_png, saved, served
from tests.sets import SIZE, write_digits, write_flat, write_strokes


@pytest.fixture(scope="module")
def strokes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sets") / "strokes"
    write_strokes(directory)
    return directory


def test_drawings_of_one_character_and_one_more(tmp_path: Path, strokes: Path):
    model = served(tmp_path / "model", shape=(SIZE, SIZE), conditional=True)
    app = make_app(Service(Limits(), HeldOutDrawings(strokes), model))
    told = ask(app, "/v1/model").json["held_out"]
    assert (told["count"], told["largest"], told["source"]) == (16, 4, "omniglot-strokes")
    split = load_split(strokes, "test")
    seen = set()
    for seed in range(8):
        path = f"/v1/held-out?count=3&seed={seed}"
        answer = ask(app, f"{path}&format=array").json
        seen.add(answer["concept"])
        of_it = split.images[split.concepts == split.concept_names.index(answer["concept"])].float().tolist()
        given = [answer["context"], *answer["drawings"]]
        assert len(given) == 4
        assert sorted(given) == sorted(of_it)
        assert ask(app, f"{path}&format=array").json == answer
        pictures = ask(app, path).json
        assert (from_png(pictures["context"]) == np.array(answer["context"])).all()
    assert len(seen) > 1
    anyone = ask(app, "/v1/held-out?count=16&same=false").json
    assert len(anyone["drawings"]) == 16
    assert anyone["context"] is anyone["concept"] is None
    for query, why in (
        ("count=4", "count=4: no held-out character has 4 drawings and one more, the most is 4"),
        ("count=17&same=false", "count=17: there are 16 held-out drawings"),
        ("count=101", "count=101: from 1 to 100"),
        ("count=0", "count='0': input should be greater than or equal to 1"),
        ("same=perhaps", "same='perhaps'"),
    ):
        answer = ask(app, f"/v1/held-out?{query}")
        assert answer.status == 422
        assert answer.error.startswith(why)


def test_grey_drawings_are_black_and_white_for_a_model_of_such_pixels(tmp_path: Path):
    write_digits(tmp_path / "digits")
    drawings = HeldOutDrawings(tmp_path / "digits")
    grey = drawings.pick(5, 0, same=False, binary=False).drawings
    black = drawings.pick(5, 0, same=False, binary=True).drawings
    assert ((grey > 0) & (grey < 1)).any()
    assert set(np.unique(black)) == {0, 1}
    assert ((grey > 0.5) == (black == 1)).all()


def test_others_are_answered_while_drawings_are_drawn(tmp_path: Path, strokes: Path):
    begun, go = threading.Event(), threading.Event()

    class Slow(HeldOutDrawings):
        def pick(self, *arguments: Any) -> Drawings:
            begun.set()
            assert go.wait(60)
            return super().pick(*arguments)

    app = make_app(Service(Limits(), Slow(strokes), served(tmp_path / "model", shape=(SIZE, SIZE))))

    async def others() -> tuple[Answer, Answer]:
        drawn = asyncio.create_task(asking(app, "/v1/held-out?count=2&same=false"))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        health = await asking(app, "/healthz")
        go.set()
        return health, await drawn

    health, drawn = asyncio.run(others())
    assert (health.status, drawn.status) == (200, 200)
    assert len(drawn.json["drawings"]) == 2


def test_without_any_or_of_another_size_there_are_none(tmp_path: Path, strokes: Path):
    model = served(tmp_path / "model")
    for service in (Service(Limits(), served=model), Service(Limits(), HeldOutDrawings(strokes), model)):
        app = make_app(service)
        assert ask(app, "/v1/held-out").json == {"context": None, "drawings": [], "concept": None}
        assert ask(app, "/v1/model").json["held_out"] is None


def test_of_a_flat_folder_no_character_is_known(tmp_path: Path):
    write_flat(tmp_path / "flat", 6)
    drawings = HeldOutDrawings(tmp_path / "flat")
    assert (len(drawings), drawings.largest, drawings.source) == (6, 0, "folder")
    with pytest.raises(BadInput, match="no held-out character has 1 drawings and one more, the most is 0"):
        drawings.pick(1, 0, same=True, binary=True)


def test_a_directory_of_something_else_is_bad_input(tmp_path: Path):
    with pytest.raises(BadInput, match="no manifest"):
        HeldOutDrawings(saved(tmp_path / "model"))


def trained(place: Path, shards: Path, initial: str = "random") -> Served:
    """A model in a directory as training leaves it, with what it was trained on beside it."""
    model = saved(place / "model", shape=(SIZE, SIZE))
    shutil.copyfile(shards / "manifest.json", place / "manifest.json")
    (place / "recipe.json").write_text(json.dumps({"train": {"initial": initial}}))
    return load_source(str(model))


def test_the_model_says_whether_its_training_left_them_out(tmp_path: Path, strokes: Path):
    write_strokes(tmp_path / "others", seed=1)
    ours, others = (read_manifest(place) for place in (strokes, tmp_path / "others"))
    drawings = HeldOutDrawings(strokes)

    def told(model: Served) -> Any:
        return ask(make_app(Service(Limits(), drawings, model)), "/v1/model").json["held_out"]

    same = trained(tmp_path / "same", strokes)
    assert told(same) == {
        "count": 16,
        "largest": 4,
        "source": "omniglot-strokes",
        "title": ours.title,
        "split": "test",
        "digest": ours.digest,
        "trained_on": ours.digest,
        "unseen": True,
    }
    assert drawings.doubt(same) == ""
    another = trained(tmp_path / "another", tmp_path / "others")
    assert (told(another)["trained_on"], told(another)["unseen"]) == (others.digest, False)
    assert (
        f"manifest {ours.digest[:12]}, model was trained on manifest {others.digest[:12]}"
        in drawings.doubt(another)
    )
    # the weights were a champion's before, and it is not said what that one was trained on; nothing is said at all
    for unknown in (
        trained(tmp_path / "warm", strokes, "champion"),
        served(tmp_path / "model", shape=(SIZE, SIZE)),
    ):
        assert (told(unknown)["trained_on"], told(unknown)["unseen"]) == (None, False)
        assert "no known manifest" in drawings.doubt(unknown)


def test_a_manifest_that_was_altered_is_no_proof(tmp_path: Path, strokes: Path):
    trained(tmp_path, strokes)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "title": "another"}))
    assert load_source(str(tmp_path / "model")).trained_on is None
