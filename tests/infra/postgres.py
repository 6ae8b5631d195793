"""A real PostgreSQL on a free port of loopback, for tests; its programs are Debian's or on the PATH."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.free_ports import free_ports

PASSWORD = "of-the-database"


def program(name: str) -> str | None:
    """Where PostgreSQL's program is, or None; Debian keeps most of them off the PATH."""
    places = [os.environ.get("PATH", ""), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))]
    return shutil.which(name, path=os.pathsep.join(places))


def clients() -> str:
    """A PATH on which pg_dump, psql and pg_restore are."""
    found = program("pg_dump")
    assert found
    return f"{Path(found).resolve().parent}{os.pathsep}{os.environ.get('PATH', '')}"


class Postgres:
    """`start` and `stop` of a cluster in `directory` with the user and database mlflow and PASSWORD."""

    def __init__(self, directory: Path) -> None:
        self.data, self.log = directory / "data", directory / "log"
        self.password = directory / "password"
        (self.port,) = free_ports(1)
        # It does not run as root.
        self._user = pwd.getpwnam("postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
        self.environment = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "mlflow"}
        self.environment["PGPASSWORD"] = PASSWORD
        directory.mkdir(parents=True)
        self.password.write_text(PASSWORD)
        for path in (directory, self.password):
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def start(self) -> None:
        """Make it, if it is new, and start it."""
        access = ["--auth=scram-sha-256", f"--pwfile={self.password}", "--username=mlflow"]
        self._run("initdb", f"--pgdata={self.data}", "--encoding=UTF8", "--no-sync", *access)
        where = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories="
        self._run(
            "pg_ctl", "start", f"--pgdata={self.data}", f"--log={self.log}", f"--options={where}", "--wait"
        )
        self.sql("CREATE DATABASE mlflow", database="postgres")

    def stop(self) -> None:
        """Stop it at once."""
        self._run("pg_ctl", "stop", f"--pgdata={self.data}", "--mode=immediate")

    def sql(self, text: str, database: str = "mlflow") -> str:
        """What a statement answers."""
        psql = [program("psql") or "psql", "--no-align", "--tuples-only", "--command", text, database]
        done = subprocess.run(
            psql, env={**os.environ, **self.environment}, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def _run(self, name: str, *arguments: str) -> None:
        command = [program(name) or name, *arguments]
        with self.log.with_suffix(".start").open("ab") as log:
            subprocess.run(
                command, user=self._user.pw_uid, group=self._user.pw_gid, extra_groups=[], stdout=log, stderr=log,
                cwd="/", check=True,
            )  # fmt: skip
