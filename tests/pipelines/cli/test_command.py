"""How a verb's errors end its process."""

from __future__ import annotations

import pytest

from pipelines.cli.command import run
from seqgen.core.errors import BadInput, NumericalError, OperationalError, StoppedEarly


def ended(error: BaseException) -> int | str | None:
    def work() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run(work, [])
    return stop.value.code


@pytest.mark.parametrize(
    ("kind", "code"), [(OperationalError, 1), (BadInput, 2), (NumericalError, 3), (StoppedEarly, 4)]
)
def test_each_kind_of_error_has_its_code_and_one_line(
    kind: type[BaseException], code: int, capsys: pytest.CaptureFixture[str]
):
    assert ended(kind("what is wrong")) == code
    assert capsys.readouterr().err == "error: what is wrong\n"


def test_an_error_of_the_machine_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert ended(OSError(28, "No space left on device", "http://me:secret@host")) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'http://***@host'\n"


def test_an_error_of_ours_keeps_its_traceback():
    def work() -> None:
        raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        run(work, [])
