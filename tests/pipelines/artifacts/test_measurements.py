"""Bounds with both standard errors as a person reads them: lines, rows, and the report's tables."""

from __future__ import annotations

import json
import re

from pipelines.artifacts.measurements import bound_rows, metric_lines
from pipelines.artifacts.report_page import write_report
from pipelines.evaluate import evaluate_trained
from pipelines.report import _print_bounds
from tests.finished_run import finished_run, tiny_recipe, work_in

METRICS = {
    "bound": 90.0,
    "bound_se": 0.5,
    "bound_se_by_alphabet": 2.25,
    "kl": 20.0,
    "log_likelihood": -70.0,
    "iwae_50": 88.0,
    "iwae_50_se": 0.6,
    "iwae_50_images": 200,
    "images": 10,
}


def test_both_errors_stand_beside_their_value():
    rows = {row["name"]: row for row in bound_rows(METRICS)}
    assert (rows["F, free energy"]["se"], rows["F, free energy"]["se_by_alphabet"]) == (0.5, 2.25)
    assert (rows["IWAE-50"]["se"], rows["IWAE-50"]["se_by_alphabet"]) == (0.6, None)
    lines = metric_lines({"test": {"static": METRICS}})
    assert len(lines) == 4
    assert re.search(r"test/static/bound +90\.00 ± 0\.50 \(by alphabet ± 2\.25\) nats", lines[0])
    assert lines[-1].endswith("88.00 ± 0.60 nats")


def test_the_report_has_a_column_by_alphabet_where_there_is_such_an_error(tmp_path, monkeypatch, capsys):
    work_in(tmp_path, monkeypatch)
    trained = finished_run(tiny_recipe(tmp_path, conditional=True))
    metrics = evaluate_trained(trained)["test"]["static"]
    without = write_report(trained, {}).read_text()
    _print_bounds(trained)
    assert "by alphabet" not in without + capsys.readouterr().out  # one alphabet

    more = {**metrics, "bound_se_by_alphabet": 123.456}
    (trained.places.evaluate / "metrics.json").write_text(json.dumps({"test": {"static": more}}))
    page = write_report(trained, {}).read_text()
    _print_bounds(trained)
    assert page.count("123.46") == 2  # the headline and the table
    assert '<th class="number">± SE by alphabet</th>' in page
    assert "alphabets never seen" in page
    table = re.search(r"<h2>Held-out bounds</h2>.*?</table>", page, re.S)
    assert table is not None
    cells = [len(re.findall("<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", table[0], re.S)]
    assert set(cells) == {5}
    printed = capsys.readouterr().out
    assert "± SE by alphabet" in printed
    assert "123.46" in printed
