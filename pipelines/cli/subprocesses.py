"""Runs stages in processes of their own: by `dvc repro`, or verb after verb; stops them all when stopped."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from pipelines.cli.signals import on_stop
from pipelines.cli.verbs import STAGES
from seqgen.core.errors import BadInput, NumericalError, OperationalError, SeqgenError, StoppedEarly
from seqgen.core.yaml import read_yaml

GRACE = 120.0  # seconds in which a stopped verb ends its Ray and closes its run
ERRORS: dict[int, type[SeqgenError | StoppedEarly]] = {2: BadInput, 3: NumericalError, 4: StoppedEarly}
_STAGE_CODE = re.compile(rb"exited with (\d+)")


def run_stages(
    recipe: str, last: str, settings: Sequence[str] = (), *, force: bool = False, keep: tuple[int, ...] = ()
) -> None:
    """Run the stages up to `last` for `recipe`.

    Where it is one of DVC's recipes and there are no `settings` (--set) that is `dvc repro`, which skips what
    is up to date; otherwise every verb runs with them. The processes inherit the file descriptors `keep`.
    Raises the error that the failing verb's exit code stands for.
    """
    if not settings and recipe in dvc_recipes():
        _run(
            [sys.executable, "-m", "dvc", "repro", *(["--force"] if force else []), f"{last}@{recipe}"], keep
        )
        return
    names = [stage.name for stage in STAGES]
    for stage in STAGES[: names.index(last) + 1]:
        command = [sys.executable, "-m", stage.module, "--recipe", recipe]
        _run([*command, *(f"--set={text}" for text in settings)], keep)


def dvc_recipes() -> list[str]:
    """The recipes that `dvc repro` takes through the stages here; none outside a DVC project."""
    if not (Path("dvc.yaml").is_file() and Path(".dvc").is_dir() and Path("params.yaml").is_file()):
        return []
    params = read_yaml(Path("params.yaml"))
    recipes = params.get("recipes") if isinstance(params, dict) else None
    return [str(recipe) for recipe in recipes] if isinstance(recipes, list) else []


def _run(command: list[str], keep: tuple[int, ...]) -> None:
    print("+", " ".join(command[1:]), flush=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    child = subprocess.Popen(
        command,
        env={**os.environ, "PATH": path},
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=keep,
    )
    assert child.stderr is not None
    codes: list[int] = []
    errors: list[str] = []
    copier = threading.Thread(target=_copy, args=(child.stderr, codes, errors), daemon=True)
    copier.start()
    try:
        code = child.wait()
        copier.join(5)
    except BaseException:
        _stop(child)
        raise
    if code:
        code = codes[-1] if codes else code
        raise ERRORS.get(code, OperationalError)(
            f"{' '.join(command[2:])} ended with code {code}: {errors[-1] if errors else 'see above'}"
        )


def _copy(stream: IO[bytes], codes: list[int], errors: list[str]) -> None:
    """Pass a child's stderr on; DVC's own exit code says nothing, its message has the verb's, which has said why."""
    for line in stream:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
        codes += [int(code) for code in _STAGE_CODE.findall(line)]
        if line.startswith(b"error: "):
            errors.append(line.decode(errors="replace").removeprefix("error: ").strip())


def _stop(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to every process of the child's group, and SIGKILL after GRACE seconds or a second signal."""
    with on_stop(lambda: _signal(child.pid, signal.SIGKILL)):
        _signal(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while _alive(child.pid):
            if time.monotonic() > deadline:
                _signal(child.pid, signal.SIGKILL)
            time.sleep(0.1)
        child.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _alive(group: int) -> bool:
    import psutil

    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return False
