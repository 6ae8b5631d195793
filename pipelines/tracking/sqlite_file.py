"""The SQLite file a project tracks to without a server: MLflow writes absolute places of artifacts into it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
from pathlib import Path
from urllib.request import url2pathname

from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import publish
from seqgen.core.locks import held

EXPERIMENT = "seqgen"
ARTIFACTS = "mlartifacts"  # the folder beside the file
# Where MLflow keeps addresses of artifacts.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_WAIT = 30.0  # seconds for another process's transaction
_MAKING = 300.0  # seconds for another process that makes the file, which takes it a few


def artifact_location(database: Path) -> str:
    """Beside the file: MLflow's own default follows the working directory."""
    return database.with_name(ARTIFACTS).as_uri()


def make(database: Path) -> None:
    """Make the file with its tables, if it is not there: whole or not at all, and by one process at a time.

    MLflow makes the tables one by one, in place and without a lock: of two processes that begin at once one fails, and
    a kill leaves half of them. Raises Taken, OSError, MLflow's errors.
    """
    if database.exists():
        return
    lock, folder = (database.with_name(f".{database.name}.{what}") for what in ("lock", "making"))
    with held(lock, timeout=_MAKING, keep=False):
        if database.exists():
            return  # another process was first
        shutil.rmtree(folder, ignore_errors=True)  # a killed process left it
        folder.mkdir()
        try:
            _fill(folder / database.name, database.with_name(ARTIFACTS))
            publish(folder / database.name, database)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _fill(database: Path, artifacts: Path) -> None:
    """Make MLflow's tables, and its experiment Default, whose artifacts are in `artifacts`."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{database}", artifacts.as_uri())
    store.engine.dispose()  # the file is about to be moved


def follow(database: Path) -> None:
    """Make the addresses in `database` those of the artifacts beside it, if it was moved or copied with them.

    Otherwise a copy's runs would go into the original's folder, and a moved project would find none of its models.
    Raises BadInput if the artifacts were left behind, OperationalError if the file cannot be written.
    """
    if not database.is_file():
        return
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=_WAIT, isolation_level=None)) as connection:
            if (old := _former(connection, database)) is None:
                return
            _check(database, old, bool(_count(connection, old)))
            connection.execute("BEGIN IMMEDIATE")
            if _former(connection, database) == old:  # else another process was first
                count = _rewrite(connection, old, database.parent)
                print(
                    f"{database} was moved or copied from {old}: {count} places of artifacts in it are now beside it",
                    file=sys.stderr,
                )
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise OperationalError(f"{database}: {error}") from None


def _former(connection: sqlite3.Connection, database: Path) -> Path | None:
    """The folder that the file lay in when its experiment was made, if it is another one now."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
        return None
    row = connection.execute(
        "SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)
    ).fetchone()
    location = row[0] if row else ""
    if not location.startswith("file:///") or location == artifact_location(database):
        return None
    old = Path(url2pathname(location.removeprefix("file://")))
    return old.parent if old.name == ARTIFACTS else None


def _count(connection: sqlite3.Connection, old: Path) -> int:
    prefix = f"{old.as_uri()}/{ARTIFACTS}/"
    return connection.execute(
        "SELECT count(*) FROM runs WHERE substr(artifact_uri, 1, ?) = ?", (len(prefix), prefix)
    ).fetchone()[0]


def _check(database: Path, old: Path, has_runs: bool) -> None:
    here, there = database.with_name(ARTIFACTS), old / ARTIFACTS
    if has_runs and there.is_dir() and not here.is_dir():
        raise BadInput(
            f"{database} is a copy without its artifacts, which are in {there}: copy them too "
            f"(cp -a {there} {here}), or remove {database} to begin anew"
        )


def _rewrite(connection: sqlite3.Connection, old: Path, new: Path) -> int:
    before, after = (f"{folder.as_uri().rstrip('/')}/" for folder in (old, new))
    count = 0
    for table, column in _ADDRESSES:
        changed = connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (after, len(before) + 1, len(before), before),
        )
        count += changed.rowcount
    return count
