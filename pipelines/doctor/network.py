"""Ports, clocks, and who may ask Ray to run code."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from pipelines.cluster import head
from pipelines.cluster.storage import storage_root
from pipelines.doctor.findings import Finding, failed, ok, warning
from pipelines.tracking.server import tracking_uri
from seqgen.core.errors import SeqgenError, one_line, redact

# What listens where by default, and what chooses another port.
_PORTS = {
    6379: ("Ray's nodes", "--port of seqgen cluster up"),
    8265: ("Ray's dashboard", "--dashboard-port of seqgen cluster up"),
    5000: ("a tracking server", "--port of mlflow server"),
    5055: ("MLflow of seqgen services", "--port of seqgen services up"),
    8080: ("seqgen serve", "--port of seqgen serve"),
}
_SECONDS = 10  # for an answer
# A signature of S3 is refused when it is 15 minutes old, some servers' after 5.
_SKEW, _LARGE_SKEW = 30, 300


def ports() -> Iterator[Finding]:
    """Whether the ports that are used by default are free, and who has those that are not."""
    taken, own = _listening(), _own()
    for port, (use, other) in _PORTS.items():
        if port not in taken:
            yield ok(f"{port} ({use}) is free")
        elif port in own:
            yield ok(f"{port} ({use}) is this directory's {own[port]}")
        else:
            yield warning(
                f"{port} ({use}) is taken by {_owner(taken[port])}",
                f"if that is not the one you mean, choose another: {other}",
            )


def _own() -> dict[int, str]:
    """The ports of what runs for this directory."""
    from pipelines.services import stack

    found = {known["port"]: name for name, known in stack.running().items()}
    if cluster := head.running():
        found |= dict.fromkeys((cluster["port"], int(cluster["dashboard"].rpartition(":")[2])), "cluster")
    return found


def _listening() -> dict[int, int | None]:
    """The TCP ports that are listened on, and by which process; None where that is hidden from us."""
    import psutil

    found = psutil.net_connections("tcp")
    return {each.laddr.port: each.pid for each in found if each.status == psutil.CONN_LISTEN}


def _owner(pid: int | None) -> str:
    import psutil

    if pid is None:
        return "another user's process"
    try:
        process = psutil.Process(pid)
        return f"{process.name()} (pid {pid}: {redact(' '.join(process.cmdline()))[:80]})"
    except psutil.Error:
        return f"pid {pid}"


def ray() -> Iterator[Finding]:
    """Whether Ray's clusters at hand answer, and ask for the token: who may submit a job can run any code."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        yield failed(
            "RAY_AUTH_MODE=disabled: what is started here takes jobs from anybody", "RAY_AUTH_MODE=token"
        )
    if address := os.environ.get("RAY_ADDRESS", "").removeprefix("local"):
        from pipelines.cluster.connect import check_answers

        try:
            check_answers(address)
            yield ok(f"RAY_ADDRESS={address} answers")
        except SeqgenError as error:
            yield failed(str(error), "start that cluster, or unset RAY_ADDRESS")
    own = head.running()
    named = {each for each in (os.environ.get("RAY_API_SERVER_ADDRESS"), own and own["dashboard"]) if each}
    default = {"http://127.0.0.1:8265"} if 8265 in _listening() else set()
    for where in sorted(named | default):
        yield from _dashboard(where.rstrip("/"), where in named)
    if not named | default:
        yield ok("no dashboard here: RAY_API_SERVER_ADDRESS names none, and nothing listens on 8265")
    token = _token_file()
    if token.is_file() and token.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield warning(f"{token} can be read by other users of this machine", f"chmod 600 {token}")


def _dashboard(address: str, named: bool) -> Iterator[Finding]:
    """One dashboard: asked for its jobs without the token, and with ours."""
    import requests

    def ask(headers: dict[str, str]) -> requests.Response:
        return requests.get(f"{address}/api/jobs/", headers=headers, timeout=_SECONDS, allow_redirects=False)

    try:
        stranger = ask({})
        token = os.environ.get("RAY_AUTH_TOKEN") or (
            _token_file().read_text() if _token_file().is_file() else ""
        )
        asks = stranger.status_code in (401, 403)  # who asks for no token is told none
        friend = ask({"Authorization": f"Bearer {token.strip()}"}) if token and asks else None
    except requests.RequestException as error:
        if named:
            yield failed(
                f"{address} does not answer ({one_line(error)})", "start the cluster, or correct the address"
            )
        return
    if stranger.status_code == 200:
        yield failed(
            f"{address} is open: it takes jobs without a token, and a job can run any code",
            "stop it, and start it with RAY_AUTH_MODE=token (seqgen cluster up does)",
        )
    elif not asks:
        if named:
            yield warning(f"{address} is no Ray dashboard ({stranger.status_code})", "correct the address")
    elif friend is None:
        yield warning(
            f"{address} asks for a token, and there is none here", f"copy the head's to {_token_file()}"
        )
    elif friend.status_code != 200:
        yield failed(f"{address} refuses this user's token", f"copy the head's to {_token_file()}")
    else:
        yield ok(f"{address} takes jobs with this user's token, and none without")
    if (outside := _outside(address)) is not None:
        yield warning(
            f"{address} listens on {outside}: the token comes to it in the clear",
            "--dashboard-host=127.0.0.1, and an SSH tunnel or TLS in front",
        )


def _outside(address: str) -> str | None:
    """The address that a dashboard of this machine listens on, if it is not loopback's."""
    import psutil

    port = address.rpartition(":")[2]
    for each in psutil.net_connections("tcp"):
        if each.status == psutil.CONN_LISTEN and str(each.laddr.port) == port:
            inside = ipaddress.ip_address(each.laddr.ip).is_loopback
            return None if inside else each.laddr.ip
    return None


def _token_file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def clock() -> Iterator[Finding]:
    """This machine's clock, against those of the storage and of the tracking server."""
    servers = {}
    if storage_root().startswith("s3://"):
        from data_prep import s3

        servers["the storage"] = s3.client().meta.endpoint_url
    if (uri := tracking_uri()).startswith("http"):
        servers["the tracking server"] = uri
    if not servers:
        yield ok("nothing to compare it with: storage and tracking are files here")
    for name, address in servers.items():
        yield _skew(name, address)


def _skew(name: str, address: str) -> Finding:
    import requests

    before = datetime.now(UTC)
    try:
        answer: Any = requests.head(address, timeout=_SECONDS, allow_redirects=False)
        theirs = parsedate_to_datetime(answer.headers["Date"])
    except (requests.RequestException, KeyError, ValueError) as error:
        return warning(
            f"{name}, {redact(address)}, does not say the time ({one_line(error)})", "see that it answers"
        )
    ours = before + (datetime.now(UTC) - before) / 2
    seconds = (ours - theirs).total_seconds()
    text = (
        f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} {name}'s clock ({redact(address)})"
    )
    remedy = "set the clock: systemctl enable --now systemd-timesyncd, or chronyd"
    if abs(seconds) > _LARGE_SKEW:
        return failed(f"{text}; S3 refuses signatures of another time", remedy)
    return warning(text, remedy) if abs(seconds) > _SKEW else ok(text)
