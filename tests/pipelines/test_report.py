"""The report: self-contained, escaped, complete."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.artifacts import gallery
from pipelines.artifacts.one_shot import entry, write_table
from pipelines.artifacts.report_page import view_command
from pipelines.evaluate import evaluate_trained
from pipelines.evaluate.figure10 import figure10
from pipelines.report import report
from pipelines.tracking import runs
from seqgen import training
from seqgen.core.errors import BadInput
from seqgen.drawing.learning import strip
from seqgen.training.drawings import drawings
from tests.finished_run import finished_run, tiny_recipe

EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """What a browser would act on: tags, links, and the text outside of style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SEQGEN_ARTIFACTS", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def test_the_report_holds_the_run_and_nothing_from_outside(project, capsys):
    recipe = tiny_recipe(project, conditional=True)
    recipe.write_text(recipe.read_text().replace("for tests", json.dumps(EVIL)))
    trained = finished_run(recipe)
    metrics = evaluate_trained(trained)["test"]["static"]
    places = trained.places
    (places.train / "history.csv").write_text(
        "epoch,step,train/free_energy,valid/static/free_energy,seconds\n1,2,300.5,,61\n2,4,200.25,210.5,62\n"
    )
    places.search.mkdir()
    (places.search / "best.json").write_text(json.dumps({"settings": {"model.steps": 2}, "objective": 1.5}))
    (places.search / "trials.csv").write_text(
        f"trial,model.steps,bound,state\n1,2,210.123456789,{EVIL}\n2,4,,failed\n"
    )
    places.register.mkdir()
    decision = {"name": "tiny", "version": "7", "alias": "candidate", "promoted": False}
    (places.register / "register.json").write_text(json.dumps({**decision, "reason": f"worse {EVIL}"}))
    capsys.readouterr()

    report(str(recipe), None)

    html = (places.report / "report.html").read_text()
    page = Page(html)
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 3
    assert page.links
    assert all(link.startswith("data:image/") for link in page.links)
    assert not re.search(r"url\(|@import|http-equiv=.refresh", html)
    assert len([link for link in page.links if link.startswith("data:image/png")]) == 4
    assert len([link for link in page.links if link.startswith("data:image/svg")]) == 2
    shown = " ".join(page.text.split())
    for expected in (
        f"{metrics['bound']:.2f}",
        f"{metrics['bound_se']:.2f}",
        f"{metrics['foreign_context_cost']:.2f}",
        "cost of a foreign context",
        "the drawings of one character taken together",
        "bound on the negative log-likelihood",
        "test/static",
        "123 seconds",
        "4 steps of 16 images",
        "210.123",
        "not promoted: worse",
        trained.manifest().digest,
        trained.run["settings_digest"],
        "sha256 " + "0" * 64,
        trained.run["run_id"],
        "python -m pipelines.train --recipe",
    ):
        assert expected in shown, expected

    printed = capsys.readouterr().out
    assert f"{metrics['bound']:.2f}" in printed
    assert f"{metrics['bound_se']:.2f}" in printed
    assert "tiny version 7, not promoted: worse" in printed
    assert str(places.report / "report.html") in printed
    assert f"mlflow ui --backend-store-uri {runs.tracking_uri()}" in printed
    assert "\x1b" not in printed
    attached = runs.connect().list_artifacts(trained.run["run_id"], "report")
    assert [artifact.path for artifact in attached] == ["report/report.html"]


def test_the_report_does_without_search_and_registry_but_not_without_evaluation(project, capsys):
    recipe = tiny_recipe(project)
    trained = finished_run(recipe)
    (trained.places.evaluate / "metrics.json").unlink()
    with pytest.raises(BadInput, match=r"not evaluated yet; run `seqgen evaluate"):
        report(str(recipe), None)
    evaluate_trained(trained)
    report(str(recipe), None)
    shown = Page((trained.places.report / "report.html").read_text()).text
    assert "not registered" in shown
    assert "Search" not in shown
    assert "registered: no" in capsys.readouterr().out


def test_how_to_view_the_runs_shows_no_password():
    assert view_command("http://me:secret@host:5000") == "http://***@host:5000"
    assert (
        view_command("sqlite:////a b/mlflow.db") == "mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db'"
    )


def test_the_report_shows_what_one_shot_verbs_left_of_these_weights(project):
    trained = finished_run(tiny_recipe(project, conditional=True))
    evaluate_trained(trained)
    figure10(str(project / "tiny.yaml"), None)
    entries = {"nll_1_context": entry(86.25, 0.5, 200, unit="nats", se_by_alphabet=1.75, k=1000)}
    write_table(trained, "contexts", entries, {"notes": ["a <note>"]}, "NLL by contexts")
    report(str(project / "tiny.yaml"), None)
    html = (trained.places.report / "report.html").read_text()
    page = Page(html)
    for text in ("NLL by contexts", "86.25", "1.75", "1,000", "a <note>", "pipelines.evaluate.figure10"):
        assert text in page.text
    assert len([link for link in page.links if link.startswith("data:image/png")]) >= 5
    write_table(trained, "contexts", entries, {}, "Other weights")
    table = trained.places.one_shot / "contexts.json"
    table.write_text(table.read_text().replace(trained.weights, "other"))
    report(str(project / "tiny.yaml"), None)
    assert "Other weights" not in (trained.places.report / "report.html").read_text()


def test_the_report_shows_what_was_drawn_while_it_learned_as_a_strip_and_as_a_film(project):
    recipe = tiny_recipe(project, epochs=3)
    trained = finished_run(recipe)
    evaluate_trained(trained)
    report(str(recipe), None)
    assert "Learning" not in Page((trained.places.report / "report.html").read_text()).text

    seen = gallery.Gallery()

    def draw(progress: training.Progress, save: training.SaveFn) -> None:
        seen.drawn[progress.epoch] = drawings(progress.model, None, seed=0)

    training.run(trained.recipe, trained.places.shards, threads=1, callbacks=[training.EachEpoch(draw)])
    seen.write(trained.places.train / gallery.FILE_NAME)
    report(str(recipe), None)

    page = Page((trained.places.report / "report.html").read_text())
    assert "Learning" in page.text
    (film,) = [link for link in page.links if link.startswith("data:image/gif;base64,")]
    with Image.open(io.BytesIO(decoded(film))) as animation:
        assert animation.format == "GIF"
        assert animation.n_frames == len(seen.drawn) == 3
    wanted = strip([1, 2, 3], np.stack(list(seen.drawn.values())), None)
    shown = page.links[page.links.index(film) - 1]
    with Image.open(io.BytesIO(decoded(shown))) as picture:
        assert picture.format == "PNG"
        assert picture.convert("RGB").tobytes() == wanted.convert("RGB").tobytes()


def decoded(link: str) -> bytes:
    """The content of a data URI."""
    return base64.b64decode(link.partition(",")[2])
