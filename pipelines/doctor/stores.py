"""What runs read and write: published shards, the storage of checkpoints, the tracking server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pipelines.artifacts.published import opened, published_root
from pipelines.cluster.storage import shared, storage_root
from pipelines.doctor.findings import Finding, failed, ok, warning
from pipelines.storage import Store, open_store
from pipelines.tracking.server import connect, tracking_uri
from pipelines.tracking.spool import RunSpool, set_aside, spool_directory, spools
from seqgen.core.errors import OperationalError, SeqgenError, redact
from seqgen.core.locks import Taken
from seqgen.data.manifest import FILE_NAME, read_manifest

_CONTENT = b"seqgen"
_POLICY, _READER = "infra/s3-policy-training.json", "infra/s3-policy-reader.json"
_SECONDS = 10
# Before it a fresh MLflow server had a password that everybody knows.
_KNOWN_LOGIN = ("admin", "password1234")


def storage(fix: bool, older_than: timedelta) -> Iterator[Finding]:
    """Every right that a run needs of the storage, tried on a probe of its own; `fix` removes leftover uploads."""
    root = storage_root()
    store, key = open_store(root), f"seqgen-probe-{uuid.uuid4().hex}"
    tries: dict[str, Callable[[], Any]] = {"write": lambda: store.write(key, _CONTENT)}
    if shared():  # by that one of several machines gets a run
        tries["create"] = lambda: store.check_create(key)
    tries["read"] = lambda: _same(store.read(key), _CONTENT)
    tries["list"] = lambda: _same(store.list(key), [key])
    if root.startswith("s3://"):
        tries["multipart"] = lambda: _multipart(root, f"{key}-parts")
    tries["delete"] = partial(_delete, store, key)
    passed, refused = [], []
    for name, attempt in tries.items():
        try:
            attempt()
            passed.append(name)
        except SeqgenError as error:
            refused.append(name)
            yield failed(
                f"{name}: {error}",
                f"see the message; {_POLICY} has the rights" if root.startswith("s3:") else "see the message",
            )
    if passed and not refused:
        yield ok(f"{root}: {', '.join(passed)}")
    if "list" in passed:
        yield from _leftover(store, fix, older_than)


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise SeqgenError(f"what was just written is not there: {found!r}, not {expected!r}")


def _delete(store: Store, key: str) -> None:
    store.delete([key])
    _same(store.exists(key), False)


def _multipart(root: str, key: str) -> None:
    """Upload in parts, as large files are: once to the end, once broken off."""
    from data_prep import s3

    parts = urlsplit(root)
    target = {"Bucket": parts.netloc, "Key": f"{parts.path.strip('/')}/{key}".lstrip("/")}

    def upload(client: Any) -> None:
        for wanted in (True, False):
            number, whole = client.create_multipart_upload(**target)["UploadId"], False
            try:
                part = client.upload_part(**target, UploadId=number, PartNumber=1, Body=_CONTENT)
                if wanted:
                    done = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
                    client.complete_multipart_upload(**target, UploadId=number, MultipartUpload=done)
                    whole = True
            finally:
                if not whole:
                    client.abort_multipart_upload(**target, UploadId=number)
        client.delete_object(**target)

    s3.ask(f"s3://{target['Bucket']}/{target['Key']}", upload)


def _leftover(store: Store, fix: bool, older_than: timedelta) -> Iterator[Finding]:
    """What a killed process left of an upload: paid for, and shown by no listing."""
    try:
        left = store.leftovers(older_than)
        for leftover in left if fix else ():
            store.remove(leftover)
    except SeqgenError as error:
        yield failed(f"unfinished uploads: {error}", f"give the right to list and to abort them ({_POLICY})")
        return
    age = f"older than {older_than.total_seconds() / 60:.0f} minutes"
    if left and not fix:
        keys = ", ".join(leftover.key for leftover in left[:3])
        yield warning(
            f"{store.root}: {len(left)} unfinished uploads, {age} ({keys})",
            "seqgen doctor --fix removes them",
        )
    else:
        yield ok(f"{store.root}: {f'removed {len(left)}' if left else 'no'} unfinished uploads, {age}")


def shards() -> Iterator[Finding]:
    """Whether the published sets can be read: of each its manifest and its smallest shard."""
    root = published_root()
    if root is None:
        yield ok("SEQGEN_SHARDS is not set: shards are read where they are made")
        return
    remedy = f"see the message; {_READER} has the rights" if root.startswith("s3:") else "see the message"
    try:
        found = [key.removesuffix(f"/{FILE_NAME}") for key in open_store(root).list() if _is_manifest(key)]
    except SeqgenError as error:
        yield failed(f"list: {error}", remedy)
        return
    if not found:
        yield warning(f"{root}: no set is published there", "seqgen publish --recipe <name>")
    for name in found:
        address = f"{root}/{name}"
        try:
            manifest = read_manifest(opened(address))
            every = [shard for index in manifest.splits.values() for shard in index.shards]
            smallest = min(every, key=lambda shard: shard.bytes)
            if open_store(address).read(smallest.name, smallest.sha256) is None:
                raise OperationalError(f"{address}/{smallest.name}: missing; publish the set again")
        except SeqgenError as error:
            yield failed(str(error), remedy)
        else:
            yield ok(f"{address}: its manifest and {smallest.name} are readable")


def _is_manifest(key: str) -> bool:
    return key.endswith(f"/{FILE_NAME}") and key.count("/") == 1


def tracking() -> Iterator[Finding]:
    """The tracking server: whether it serves us, whom else it serves, what waits for it here."""
    uri = tracking_uri()
    file = Path(uri.removeprefix("sqlite:///"))
    try:
        if uri.startswith("sqlite:") and not file.exists():
            yield _new(file)
        else:
            connect(uri)
            yield ok(f"{redact(uri)} serves us")
    except SeqgenError as error:
        yield failed(
            str(error), "start it, or correct MLFLOW_TRACKING_URI and MLFLOW_TRACKING_USERNAME, _PASSWORD"
        )
    if uri.startswith("http"):
        yield from _server(uri)
    if os.environ.get("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false").lower() != "false":
        yield warning(
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION is on: other programs here run what a model's pickle says",
            "set it to false; seqgen's own verbs do so for themselves",
        )
    else:
        yield ok("pickle is off in what seqgen starts")
    if waiting := sum(map(_waits, spools())):
        yield warning(f"{waiting} runs wait to be sent in {spool_directory()}", "seqgen replay")
    if damaged := set_aside():
        yield warning(
            f"what is kept of {len(damaged)} runs is damaged ({', '.join(map(str, damaged))})",
            "seqgen replay says what can be done",
        )


def _waits(spool: RunSpool) -> bool:
    """Whether the server lacks something of a run that no process works on."""
    try:
        with spool.hold():
            return not spool.is_empty()
    except Taken:
        return False


def _new(file: Path) -> Finding:
    """Whether the first run can make the database."""
    if os.access(file.parent, os.W_OK):
        return ok(f"{file} will be made by the first run")
    return failed(
        f"{file} cannot be made there", "set MLFLOW_TRACKING_URI to a server, or a file in another folder"
    )


def _server(uri: str) -> Iterator[Finding]:
    """How a server of HTTP receives strangers."""
    import requests

    parts = urlsplit(uri)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    inside = parts.hostname in ("127.0.0.1", "localhost", "::1")
    session = requests.Session()
    session.trust_env = False  # no login from ~/.netrc: a stranger has none
    ask = partial(session.get, timeout=_SECONDS, allow_redirects=False)
    try:
        version = ask(f"{bare}/version")
        experiments = f"{bare}/api/2.0/mlflow/experiments/search?max_results=1"
        stranger = ask(experiments)
        known = stranger.status_code == 401 and ask(experiments, auth=_KNOWN_LOGIN).status_code == 200
    except requests.RequestException:
        return  # that it does not serve us has been said
    if version.status_code == 200:
        yield _version(version.text.strip())
    if known:
        yield failed(
            f"{bare} takes the login {_KNOWN_LOGIN[0]} with the password that everybody knows", "change it"
        )
    elif stranger.status_code in (401, 403):
        yield ok(f"{bare} asks for a login")
    elif stranger.status_code == 200 and inside:
        yield ok(f"{bare} asks for no login, and is on loopback")
    elif stranger.status_code == 200:
        yield warning(
            f"{bare} asks for no login: whoever reaches it can replace a champion", "--app-name basic-auth"
        )
    if parts.scheme == "http" and not inside:
        yield warning(f"{bare} is reached in the clear", "https, or an SSH tunnel")


def _version(text: str) -> Finding:
    from packaging.version import InvalidVersion, Version

    from pipelines.doctor.installed import floor

    try:
        old = Version(text) < Version(floor("mlflow"))
    except InvalidVersion:
        return ok("the server does not say its version")
    if old:
        return failed(
            f"the server is MLflow {text}", f"update it to {floor('mlflow')}, where known holes are closed"
        )
    return ok(f"the server is MLflow {text}")
