"""Jobs of a Ray cluster: submit one, follow it to its end, stop it; its end is the verb's own."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli.signals import on_stop
from pipelines.cli.subprocesses import ERRORS
from pipelines.cluster import head
from seqgen.core.errors import BadInput, OperationalError, StoppedEarly, one_line, redact

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_AGENT_SECONDS = 180.0  # after its start a cluster has no agent that takes jobs, for a minute or more
_PATIENCE = 120.0  # for a cluster that does not answer while a job is followed


def dashboard(address: str | None) -> str:
    """Where jobs are taken: `address`, else RAY_API_SERVER_ADDRESS, else this directory's own cluster.

    Raises BadInput if there is none of them, or one that is no http address.
    """
    state = head.running()
    found = address or os.environ.get("RAY_API_SERVER_ADDRESS") or (state["dashboard"] if state else None)
    if found is None:
        raise BadInput(
            "no cluster: give --address http://<host>:8265, set RAY_API_SERVER_ADDRESS, or start one here with "
            "seqgen cluster up"
        )
    if not found.startswith(("http://", "https://")):
        raise BadInput(f"--address {found}: give the dashboard's, http://<host>:8265")
    return found.rstrip("/")


def submit(client: JobSubmissionClient, entrypoint: str, package: Path, variables: dict[str, str]) -> str:
    """Submit a job that runs `entrypoint` in the unpacked `package`; its id. Raises OperationalError."""
    environment = {"working_dir": str(package), "env_vars": variables}
    deadline, said = time.monotonic() + _AGENT_SECONDS, False
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint, runtime_env=environment)
        except Exception as error:  # Ray raises RuntimeError, requests its own, either for many reasons
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise OperationalError(f"the cluster did not take the job: {one_line(error)}") from None
        if not said:
            print("the cluster takes no jobs yet; trying again ...", flush=True)
            said = True
        time.sleep(2)


def following(where: str, job: str) -> str:
    """The command that follows a job of the dashboard `where`."""
    return shlex.join(["seqgen", "submit", "--address", redact(where), "--follow", job])


def follow(client: JobSubmissionClient, where: str, job: str, again: str) -> None:
    """Print the job's output until it ends; a first SIGTERM or Ctrl-C stops it, a second one leaves it at once.

    Raises the error that the verb's exit code stands for, StoppedEarly if the job was stopped; `again` is the
    command that goes on.
    """
    ended = threading.Event()
    printer = threading.Thread(target=_print_logs, args=(client, job, ended), daemon=True)
    later = following(where, job)
    with _stopping(client, job, later) as stop_if_asked:
        details = _ended(client, job, printer, stop_if_asked, later)
    ended.set()
    printer.join(30)
    if details.status == "SUCCEEDED":
        print(f"job {job} succeeded")
        return
    if details.status == "STOPPED":
        raise StoppedEarly(f"job {job} was stopped. Go on with: {again}")
    code = details.driver_exit_code
    if code is None:
        raise OperationalError(
            f"job {job} failed: {one_line(Exception(details.message))}. Go on with: {again}"
        )
    further = f". Go on with: {again}" if code not in (2, 3) else ""
    raise ERRORS.get(code, OperationalError)(f"job {job} ended with code {code}; see above{further}")


def _ended(
    client: JobSubmissionClient,
    job: str,
    printer: threading.Thread,
    each_time: Callable[[], None],
    later: str,
) -> JobDetails:
    """Wait for the end of a job, whose output `printer` prints; `later` is the command that does so another time."""
    heard, message = time.monotonic(), ""
    while True:
        try:
            details = client.get_job_info(job)
            if printer.ident is None:
                # Not before: asked for the output of no job Ray's dashboard logs the request, and with it the token.
                printer.start()
            if details.status.is_terminal():
                return details
            each_time()
            heard = time.monotonic()
        except Exception as error:
            if "does not exist" in str(error):
                raise BadInput(f"job {job}: the cluster knows no such job") from None
            if time.monotonic() - heard > _PATIENCE:
                raise OperationalError(
                    f"the cluster has not answered for {_PATIENCE:.0f} s ({one_line(error)}); job {job} may go on: "
                    f"{later}"
                ) from None
        else:
            if details.status == "PENDING" and (details.message or "") != message:
                message = details.message or ""
                print(f"job {job}: {message}", flush=True)
        time.sleep(1)


@contextmanager
def _stopping(client: JobSubmissionClient, job: str, later: str) -> Iterator[Callable[[], None]]:
    """What to call now and then, also after it raised what the client does: it stops the job, once, after a signal."""
    asked, said, stopped = threading.Event(), False, False

    def stop_if_asked() -> None:
        nonlocal said, stopped
        if asked.is_set() and not stopped:
            if not said:
                print(f"stopping job {job}; once more leaves it ({later})", flush=True)
                said = True
            client.stop_job(job)
            stopped = True

    with on_stop(asked.set):
        yield stop_if_asked


def _print_logs(client: JobSubmissionClient, job: str, ended: threading.Event) -> None:
    """Print what the job prints, from its beginning, and nothing twice; a lost connection is made again."""
    printed = 0

    async def tail() -> None:
        nonlocal printed
        seen = 0
        async for text in client.tail_job_logs(job):
            fresh = text[max(0, printed - seen) :]
            seen += len(text)
            printed = max(printed, seen)
            sys.stdout.write(fresh)
            sys.stdout.flush()

    while True:
        last = ended.is_set()
        try:
            asyncio.run(tail())  # returns when all is read of a job that has ended
            return
        except Exception:
            if last:
                return
            ended.wait(2)
