"""Moving the champion's alias: one process at a time, and a move that broke off is settled by the next one.

A move is one request for the alias and several for the tags of the two versions that it concerns. What it is going to
do stands in a tag of the registered model from before the first of them until after the last. Who finds it there in
his own turn sees by the alias what became of the move: it is finished, or forgotten.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipelines.registry import versions
from pipelines.registry.inspection import inspect
from pipelines.registry.turns import Turn, turn
from seqgen.core.errors import OperationalError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_MOVE = "seqgen.move"
_HISTORY = 100  # lines; a tag has room for 5000 characters


class Move(NamedTuple):
    """One move of the alias, from the version `former` ("none") to the version `to`; `time` is when it began."""

    kind: Literal["promotion", "rollback"]
    former: str
    to: str
    reason: str
    time: str


def crown(client: MlflowClient, version: ModelVersion, expected: ModelVersion | None, reason: str) -> bool:
    """Make `version` champion if `expected` is champion still; whether it was done.

    It gets the tag `previous_champion`, by which a rollback finds its way. Interrupted at any point, the registry has
    one valid champion. Raises OperationalError, BadInput, MLflow's errors.
    """
    former = str(expected.version) if expected else "none"
    return _carry_out(client, version, Move("promotion", former, str(version.version), reason, _now()))


def roll_back(client: MlflowClient, champion: ModelVersion, previous: ModelVersion) -> bool:
    """Make `previous`, which was champion before `champion`, champion again; False if `champion` is it no more."""
    move = Move("rollback", str(champion.version), str(previous.version), "", _now())
    return _carry_out(client, previous, move)


def settle(client: MlflowClient, name: str) -> Move | None:
    """Finish, or forget, the move of the model `name` that a dead process left; the one that was finished now.

    Call before anything is read of the champion. Raises OperationalError, MLflow's errors.
    """
    if _left(client, name) is None:
        return None
    with turn(client, name):
        return _settle(client, name)


def note(client: MlflowClient, version: ModelVersion, verdict: str, time: str = "", **tags: str) -> None:
    """Write down what became of `version` at `time` (now); the tag `promotion_history` has a line for each time.

    Done again with the same time it changes nothing.
    """
    lines = (
        client.get_model_version(version.name, version.version).tags.get("promotion_history", "").splitlines()
    )
    line = f"{time or _now()} {verdict}"
    if lines[-1:] != [line]:
        lines.append(line)
    history = "\n".join(lines[-_HISTORY:])
    versions.set_tags(client, version, {"promotion": verdict, "promotion_history": history, **tags})


def _carry_out(client: MlflowClient, version: ModelVersion, move: Move) -> bool:
    name = version.name
    inspect(client, version)
    with turn(client, name) as ours:
        _settle(client, name)
        if _champion(client, name) != move.former:
            return False
        client.set_registered_model_tag(name, _MOVE, json.dumps(move._asdict()))
        _set_alias(client, ours, version)
        _write_down(client, name, move)
        client.delete_registered_model_tag(name, _MOVE)
    return True


def _settle(client: MlflowClient, name: str) -> Move | None:
    """See `settle`; call in one's turn, when nobody is at it any more."""
    move = _left(client, name)
    if move is None:
        return None
    done = _champion(client, name) == move.to
    if done:
        _write_down(client, name, move)
    client.delete_registered_model_tag(name, _MOVE)
    return move if done else None


def _set_alias(client: MlflowClient, ours: Turn, version: ModelVersion) -> None:
    ours.check()
    client.set_registered_model_alias(version.name, versions.CHAMPION, version.version)
    if ours.lost():
        raise OperationalError(
            f"{version.name}: another process took our turn over while the alias moved to version "
            f"{version.version}; see whether that is right: `seqgen models show {version.name}`"
        )


def _write_down(client: MlflowClient, name: str, move: Move) -> None:
    """The tags of both versions."""
    promoted, left = {"replaced_by": "none"}, {}
    if move.kind == "promotion":
        promoted |= {"previous_champion": move.former, "promotion_reason": move.reason}
        left = {"replaced_by": move.to}
    to, former = versions.by_number(client, name, move.to), versions.by_number(client, name, move.former)
    if former is not None:  # else it was deleted, or there was none
        note(client, former, "replaced" if move.kind == "promotion" else "rolled back", move.time, **left)
    if to is not None:
        note(client, to, "promoted", move.time, **promoted)


def _left(client: MlflowClient, name: str) -> Move | None:
    text = client.get_registered_model(name).tags.get(_MOVE)
    return Move(**json.loads(text)) if text else None


def _champion(client: MlflowClient, name: str) -> str:
    holder = versions.by_alias(client, name, versions.CHAMPION)
    return str(holder.version) if holder else "none"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
