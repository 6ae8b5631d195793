"""Case 44: `seqgen models`: rollback, and what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

import seqgen
from seqgen.core.errors import BadInput
from tests.finished_run import WORSE, finished_run, tiny_recipe
from tests.registries import champion, registered, said, version


def test_44_rollback_and_what_is_not_there(here: Path, capsys: pytest.CaptureFixture) -> None:
    code, out = said(capsys, "models", "rollback", "tiny")
    assert code == 2
    assert "the registry is empty" in out
    assert said(capsys, "models", "list") == (0, "the registry is empty\n")

    recipe = tiny_recipe(here)
    registered(finished_run(recipe, mean=WORSE))
    registered(finished_run(recipe))
    assert champion() == "2"
    assert (version("2").tags["previous_champion"], version("1").tags["replaced_by"]) == ("1", "2")
    code, out = said(capsys, "models", "rollback", "tiny")
    assert (code, champion()) == (0, "1")
    assert out == "tiny: champion is version 1 again (was 2)\n"
    assert version("2").tags["promotion"] == "rolled back"

    for words, why in (
        (("rollback", "tiny"), "nothing to go back to"),
        (("rollback", "tony"), "known: tiny"),
        (("show", "tony"), "known: tiny"),
        (("rollback", "../tiny"), "write models:/"),
        (("promote", "tiny", "chompion"), "versions 1, 2; aliases @candidate = 2, @champion = 1"),
        (("promote", "tiny", "7"), "versions 1, 2"),
        (("promote", "tiny"), "name a version"),
        (("rollback",), "name a registered model"),
        (("rollback", "tiny", "--force"), "takes no --force"),
    ):
        code, out = said(capsys, "models", *words)
        assert (code, champion()) == (2, "1"), out
        assert why in out
    with pytest.raises(BadInput, match="@champion = 1"):
        seqgen.load("models:/tiny@chompion")

    code, out = said(capsys, "models", "list")
    assert code == 0
    assert out.splitlines()[1].split()[:3] == ["tiny", "1", "2"]
    code, out = said(capsys, "models", "show", "tiny")
    lines = out.splitlines()
    assert lines[0].startswith("version 2 @candidate: ")
    assert [line.split()[-1] for line in lines if line.startswith("  20")] == [
        *("promoted", "back"),
        *("promoted", "replaced", "promoted"),
    ]
    assert "  previous champion: version 1" in lines
    assert any(line.startswith("version 1 @champion: ") for line in lines)
    assert "on valid (reported: " in lines[0]
    code, out = said(capsys, "models", "promote", "tiny", "2")
    assert (code, champion()) == (0, "2")
    assert "better by" in out
    code, out = said(capsys, "models", "promote", "tiny", "1")
    assert (code, champion()) == (0, "2")
    assert "kept champion v2 because" in out
    code, out = said(capsys, "models", "promote", "tiny", "1", "--force")
    assert (code, champion()) == (0, "1")
    assert version("1").tags["promotion_reason"] == "by hand, after version 2"
