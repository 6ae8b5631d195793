"""PostgreSQL for MLflow's runs and registry: a database cluster of the project's own, on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from pipelines.services.place import Place
from pipelines.services.service import Service, as_user
from seqgen.core.errors import BadInput, OperationalError

USER = "seqgen"
DATABASES = ("mlflow", "mlflow_auth")
_DEBIAN = Path("/usr/lib/postgresql")  # where Debian keeps it, off PATH


def postgres(place: Place) -> Service:
    """The server; its data are made if there are none. Raises BadInput (no such program), OperationalError."""
    programs, user, data = _programs(), _unprivileged(), place.root / "postgres"
    _make_data(place, programs, user, data)
    port = place.ports["postgres"]
    return Service(
        name="postgres",
        address=f"127.0.0.1:{port}",
        command=[
            str(programs / "postgres"), "-D", str(data), "-p", str(port),
            "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
        ],
        directory=data,
        environment={**_plain(), "LC_ALL": "C"},
        answers=lambda: _run(programs, place, "pg_isready", "-q").returncode == 0,
        user=user,
        stop=signal.SIGINT,  # clients are disconnected; SIGTERM would wait for them
    )  # fmt: skip


def make_databases(place: Place) -> None:
    """Make MLflow's databases, if they are not there. Raises OperationalError."""
    for name in DATABASES:
        done = _run(_programs(), place, "createdb", name)
        if done.returncode and "already exists" not in done.stderr:
            raise OperationalError(f"postgres: createdb {name}: {done.stderr.strip()[:300]}")


def uri(place: Place, database: str) -> str:
    """SQLAlchemy's address of a database; the password is in PGPASSWORD, which no list of processes shows."""
    return f"postgresql+psycopg://{USER}@127.0.0.1:{place.ports['postgres']}/{database}"


def _make_data(place: Place, programs: Path, user: str | None, data: Path) -> None:
    if (data / "PG_VERSION").is_file():
        return
    data.mkdir(exist_ok=True)
    data.chmod(0o700)
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(data, entry.pw_uid, entry.pw_gid)
        if subprocess.run(["test", "-w", str(data)], **as_user(user)).returncode:
            raise BadInput(
                f"{data}: PostgreSQL does not run as root, and the user {user} cannot enter a folder above it; set "
                "SEQGEN_STATE to a folder that everybody may enter, or run this as another user"
            )
    for half_made in data.iterdir():
        shutil.rmtree(half_made) if half_made.is_dir() else half_made.unlink()
    password = place.write_secret("password", place.keys["postgres"])
    if user is not None:
        os.chown(password, entry.pw_uid, entry.pw_gid)
    command = [str(programs / "initdb"), "-D", str(data), "-U", USER, f"--pwfile={password}"]
    try:
        done = subprocess.run(
            [*command, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"],
            cwd=data,
            env=_plain(),
            capture_output=True,
            text=True,
            **as_user(user),
        )
    finally:
        password.unlink()
    if done.returncode:
        raise OperationalError(f"initdb: {done.stderr.strip()[-300:]}")


def _programs() -> Path:
    """The folder of PostgreSQL's programs. Raises BadInput."""
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(_DEBIAN.glob("*/bin"), key=_version, reverse=True)
    for place in places:
        if (place / "postgres").is_file() and (place / "initdb").is_file():
            return place
    raise BadInput(
        f"no PostgreSQL server on PATH or under {_DEBIAN}: install it (Debian, Ubuntu: apt-get install "
        "postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql)"
    )


def _version(directory: Path) -> int:
    number = directory.parent.name.partition(".")[0]
    return int(number) if number.isdecimal() else 0


def _unprivileged() -> str | None:
    """Whom root runs the server as: it refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise BadInput(
        "PostgreSQL does not run as root, and there is no user postgres or nobody: run this as another user"
    )


def _plain() -> dict[str, str]:
    """Our environment without what would lead PostgreSQL's programs elsewhere."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")}


def _run(programs: Path, place: Place, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    address = ["-h", "127.0.0.1", "-p", str(place.ports["postgres"]), "-U", USER]
    return subprocess.run(
        [str(programs / program), *address, *arguments],
        env={**_plain(), "PGPASSWORD": place.keys["postgres"]},
        capture_output=True,
        text=True,
    )
