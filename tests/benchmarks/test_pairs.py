"""Pairs of member and kind: what is changed, what it brings along, what is refused and what is not run again."""

from __future__ import annotations

import pytest

from benchmarks import page, pairs
from pipelines.evaluate.family import MEMBERS
from seqgen.core.errors import BadInput, NumericalError


@pytest.mark.parametrize("member", MEMBERS)
def test_every_change_is_a_recipe_of_its_own_or_refused(member: str):
    recipe = pairs.small(member)
    made, refused = [], []
    for change, settings in pairs.changes(recipe):
        try:
            made.append(pairs.changed(recipe, settings))
        except BadInput:
            refused.append(change)
    assert made[0] == recipe
    assert len({one.digest() for one in made}) == len(made)
    assert f"objective: {recipe.train.objective}" not in refused
    if recipe.model.step == "composited":
        assert "observation: conv" in refused
    else:
        assert "observation: composite" in refused


def test_a_kind_brings_what_it_asks_for():
    recipe = pairs.small("sgm")
    bits = pairs.changed(recipe, {"model.latent": "bernoulli"})
    assert bits.train.objective == "score-function"
    assert pairs.changed(recipe, {"model.transition": "latent"}).model.hidden == recipe.model.latents
    assert pairs.changed(recipe, {"model.observation": "gaussian"}).data.binarise == "grey"
    assert pairs.changed(recipe, {"model.observation": "identity"}).model.canvas_channels == 1


def test_what_was_measured_of_the_same_settings_is_kept_and_a_refusal_has_its_reason(monkeypatch):
    def trained(*_: object) -> float:
        raise NumericalError("trained")

    monkeypatch.setattr(pairs, "learned", trained)
    settings = {"model.prior": "learned"}
    digest = pairs.changed(pairs.small("vae"), settings).digest()
    before = {"bound": 1.0, "settings_digest": digest}
    assert pairs.measured("vae", settings, before) is before
    for other in (None, {**before, "settings_digest": "another"}):
        with pytest.raises(NumericalError, match="trained"):
            pairs.measured("vae", settings, other)
    refused = pairs.measured("vae", {"model.transition": "lstm"}, before)
    assert "a layer is passed once" in refused["refused"]


def test_an_error_of_ours_ends_a_benchmark_with_its_code(capsys: pytest.CaptureFixture[str]):
    def main() -> None:
        raise BadInput("no such thing")

    with pytest.raises(SystemExit) as ended:
        page.run(main)
    assert ended.value.code == BadInput.exit_code == 2
    assert capsys.readouterr().err == "error: no such thing\n"
