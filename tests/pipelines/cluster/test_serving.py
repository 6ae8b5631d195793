"""What the application for Ray Serve is made with, and what is said where Ray Serve is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from seqgen.core.errors import BadInput
from seqgen.serving.http.limits import Limits
from tests.finished_run import outside


def test_arguments_are_words_of_a_command_line_or_a_configuration() -> None:
    pytest.importorskip("grpc_reflection", reason="the extra ray-serve is not installed")
    from pipelines.cluster.serving import Arguments

    said = Arguments.model_validate({"source": "models:/tiny@champion", "follow_seconds": "5"})
    assert (said.follow_seconds, said.held_out, said.limits) == (5.0, None, Limits())
    assert Arguments.model_validate({"source": "here", "limits": {"samples": 7}}).limits == Limits(samples=7)
    named = Arguments.model_validate({"source": "here", "allowed_hosts": ["draw.example"]})
    assert named.allowed_hosts == ("draw.example",)
    for wrong in (
        {},
        {"source": "here", "max_samples": 7},
        {"source": "here", "limits": {"sample": 7}},
        {"source": "here", "follow_seconds": "inf"},
    ):
        with pytest.raises(ValidationError, match=r"source|max_samples|limits\.sample|follow_seconds"):
            Arguments.model_validate(wrong)
    with pytest.raises(BadInput, match=r"^queue=0: not a limit"):
        Arguments.model_validate({"source": "here", "limits": {"queue": 0}})


def test_where_ray_serve_is_not_installed_the_extra_is_named() -> None:
    absent = "import sys; sys.modules['grpc_reflection'] = None; import pipelines.cluster.serving"
    done = subprocess.run([sys.executable, "-c", absent], env=outside(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "BadInput: grpc_reflection" in done.stderr
    assert "not installed; Ray Serve needs the extra: pip install 'seqgen[ray-serve]'" in done.stderr
