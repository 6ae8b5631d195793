"""Numbers from the environment: read, or refused by name."""

from __future__ import annotations

import pytest

from seqgen.core.environment import number
from seqgen.core.errors import BadInput


@pytest.mark.parametrize(("given", "found"), [("12.5", 12.5), ("1e3", 1000), ("2", 2), ("", 60), (None, 60)])
def test_a_number_is_read_and_an_empty_one_is_the_default(
    given: str | None, found: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SEQGEN_SOME", raising=False)
    if given is not None:
        monkeypatch.setenv("SEQGEN_SOME", given)
    assert number("SEQGEN_SOME", 60, least=2) == found


@pytest.mark.parametrize("given", ["ten", "10s", "1.9", "-1", "nan", "inf", "0x10"])
def test_what_is_none_is_refused_with_variable_value_and_remedy(given: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEQGEN_SOME", given)
    with pytest.raises(
        BadInput, match=f"^SEQGEN_SOME={given}: give a number of seconds, 2 or more, such as 60, or unset it$"
    ):
        number("SEQGEN_SOME", 60, least=2)
