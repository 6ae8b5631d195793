"""Submit a verb as a job to a Ray cluster and follow it."""

from __future__ import annotations

import difflib
import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.again import SUBMITTED
from pipelines.cli.command import run
from pipelines.cli.verbs import VERBS, Verb
from pipelines.cluster import leaks
from pipelines.cluster.upload import LARGEST, left_out, pack
from pipelines.tracking.lineage import git_commit
from seqgen.core.errors import BadInput, redact

CommandArgument = Annotated[list[str] | None, typer.Argument(help="-- VERB and its options")]
AddressOption = Annotated[
    str | None, typer.Option(help="The dashboard, http://<host>:8265; default: this directory's.")
]
EnvOption = Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE for the job; no secrets.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only list what would be uploaded.")]
NoWaitOption = Annotated[bool, typer.Option("--no-wait", help="Do not follow the job.")]
FollowOption = Annotated[
    str | None, typer.Option(help="Follow the job of this id, which was submitted before.")
]
_SHOWN = 10


def submit(
    command: CommandArgument = None,
    address: AddressOption = None,
    env: EnvOption = None,
    dry_run: DryRunOption = False,
    no_wait: NoWaitOption = False,
    follow: FollowOption = None,
) -> None:
    """Run `-- VERB ...` as a job with this directory's code, print what it prints, and end with the verb's code.

    SIGTERM or Ctrl-C stops the job, which saves and ends with 4; a second one leaves it to itself. What looks like
    a secret is not uploaded: the command is refused.
    """
    if follow is None:
        verb, arguments = _verb(command or [])
        variables = _variables(env or [])
        _refuse(
            [*leaks.in_words(arguments), *leaks.in_variables(variables)],
            "give it to the cluster's head instead",
        )
    elif command or env or dry_run or no_wait:
        raise BadInput(f"--follow {follow}: takes no command and no other option than --address")
    from pipelines.cluster import client as clients
    from pipelines.cluster import head, jobs

    clients.send_token()
    if follow is not None:
        where = jobs.dashboard(address)
        jobs.follow(clients.connect(where), where, follow, f"the command that submitted {follow}")
        return
    entrypoint = shlex.join(["python", "-m", verb.module, *arguments])
    with tempfile.TemporaryDirectory(prefix="seqgen-submit-") as temporary:
        package = Path(temporary) / "package.zip"
        files = pack(Path(), package)
        if dry_run:
            _list(files)
            print(f"runs: {entrypoint}")
        _refuse(list(leaks.in_package(package)), "name it in .rayignore, or take the secret out")
        _check_size(package, files)
        if dry_run:
            return
        where = jobs.dashboard(address)
        again = _again(command or [], address, env or [])
        given = {SUBMITTED: again, "RAY_JOB_STOP_WAIT_TIME_S": str(head.job_stop_seconds()), **variables}
        client = clients.connect(where)
        print(
            f"uploading {len(files)} files, {package.stat().st_size:,} bytes, to {redact(where)}", flush=True
        )
        job = jobs.submit(client, entrypoint, package, given)
    print(f"job {job}: {entrypoint}", flush=True)
    if no_wait:
        print(f"follow it with: {jobs.following(where, job)}")
    else:
        jobs.follow(client, where, job, again)


def _verb(command: list[str]) -> tuple[Verb, list[str]]:
    """The verb that is to run, and its arguments."""
    if not command:
        raise BadInput("nothing to run: seqgen submit -- train --recipe quickstart")
    name, *arguments = command
    if name not in VERBS or name in ("submit", "cluster"):
        near = difflib.get_close_matches(name, VERBS, n=1)
        raise BadInput(f"verb {name!r}: no verb to submit" + (f"; did you mean {near[0]}?" if near else ""))
    return VERBS[name], arguments


def _variables(assignments: list[str]) -> dict[str, str]:
    """The job's environment variables: those given, and the commit, because there is no Git in the copy."""
    variables = {"SEQGEN_COMMIT": git_commit(Path())}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise BadInput(f"--env {name}: give NAME=VALUE")
        variables[name] = value
    return {name: value for name, value in variables.items() if (name, value) != ("SEQGEN_COMMIT", "none")}


def _refuse(found: list[str], remedy: str) -> None:
    """Raise BadInput if something that looks like a secret would leave; a job's package and variables are shown
    to all who can see the dashboard.
    """
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise BadInput(
            f"this looks like a secret and does not leave: {'; '.join(found[:_SHOWN])}{more}; {remedy}"
        )


def _check_size(package: Path, files: dict[str, int]) -> None:
    if (size := package.stat().st_size) > LARGEST:
        large = sorted(files, key=lambda name: -files[name])[:3]
        raise BadInput(
            f"the upload has {size:,} bytes and a dashboard takes {LARGEST:,}; name in .rayignore what a job does not "
            f"need. The largest: {', '.join(f'{name} ({files[name]:,})' for name in large)}"
        )


def _list(files: dict[str, int]) -> None:
    """Every file that goes, and what does not."""
    for name, size in sorted(files.items()):
        print(f"{size:10,}  {name}")
    print(f"{sum(files.values()):10,}  bytes in {len(files)} files\n\nleft out:")
    for name, count, size in left_out(Path(), files):
        print(f"{size:10,}  {name}" + (f" ({count} files)" if name.endswith("/") else ""))
    print()


def _again(command: list[str], address: str | None, env: list[str]) -> str:
    options = [*(["--address", redact(address)] if address else []), *(f"--env={each}" for each in env)]
    return shlex.join(["seqgen", "submit", *options, "--", *command])


if __name__ == "__main__":
    run(submit)
