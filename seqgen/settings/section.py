"""A section of a recipe that is open: it chooses kinds, and the kinds it chose own settings in it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, LiteralString

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from seqgen.core.errors import BadInput
from seqgen.core.strict import Strict
from seqgen.settings.kinds import (
    Kind,
    KindSettings,
    chosen,
    find,
    load_plugin,
    owners,
    plugin_version,
    within,
)

ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]


class OpenSection(Strict):
    """Settings of its own, a kind for each of `slots`, and, as attributes like the others, what those kinds own.

    What a kind owns may be a slot in turn. A setting that none of the chosen kinds has is refused; one that is null is
    left out. All problems come at once.
    """

    model_config = ConfigDict(extra="allow")  # what the kinds own, checked in `_open`
    slots: ClassVar[tuple[str, ...]]

    plugins: tuple[ModuleName, ...] = Field(
        default=(), strict=False, description="modules from outside the package that register kinds"
    )

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # what the kinds own

    def of(self, slot: str) -> KindSettings:
        """The settings that the kind in `slot` owns."""
        settings = find(slot, getattr(self, slot)).settings
        return settings.model_validate({key: getattr(self, key) for key in settings.model_fields})

    def problems(self, size: int | None = None) -> Iterator[str]:
        """What the chosen kinds find wrong, for images of `size` if it is known."""
        for kind in self.kinds():
            yield from self.of(kind.slot).problems(self, size)

    def kinds(self) -> list[Kind]:
        """The kinds that were chosen, those of a kind's own slots after it."""
        return chosen(self.default_kinds(), vars(self) | (self.model_extra or {}))

    @classmethod
    def default_kinds(cls) -> dict[str, str]:
        """What stands in each of the section's own slots by default."""
        return {slot: cls.model_fields[slot].default for slot in cls.slots}

    def given(self) -> dict[str, Any]:
        """The settings that were given, without those that a default filled in."""
        return {
            key: value for key, value in self.model_dump(mode="json").items() if key in self.model_fields_set
        }

    def used_plugins(self) -> dict[str, str | None]:
        """The modules from outside that these settings need, with the version of each (None: plain files)."""
        modules = {*self.plugins, *(kind.module for kind in self.kinds() if kind.from_outside)}
        return {module: plugin_version(module) for module in sorted(modules)}

    @model_validator(mode="wrap")
    @classmethod
    def _open(cls, data: Any, handler: Any) -> Any:
        if not isinstance(data, Mapping):
            return handler(data)
        given = {key: value for key, value in data.items() if value is not None}
        problems: list[InitErrorDetails] = list(_plugin_problems(given.get("plugins", ())))
        owned: dict[str, Any] = {}
        names: dict[str, str] = {}
        defaults = cls.default_kinds()
        for slot in (waiting := list(cls.slots)):  # which grows by the slots of those that were chosen
            name = given.get(slot, defaults[slot])
            if not isinstance(name, str):  # which is said of it below
                continue
            try:
                kind = find(slot, name)
            except BadInput as error:
                problems.append(_problem((slot,), str(error), name))
                continue
            names[slot] = name
            defaults |= kind.own_slots
            waiting += kind.own_slots
            theirs = {key: given[key] for key in kind.settings.model_fields if key in given}
            try:
                own = kind.settings.model_validate_json(json.dumps(theirs))
                owned |= own.model_dump()
            except ValidationError as error:
                problems += _details(error)
                owned |= theirs
        known = [*cls.model_fields, *owned]
        # Of a slot whose kind is not known it cannot be said what it has.
        for key in sorted(given.keys() - set(known)) if names.keys() >= set(waiting) else ():
            problems.append(cls._unowned(key, given[key], known, names))
        try:
            section = handler({key: given[key] for key in cls.model_fields if key in given} | owned)
        except ValidationError as error:
            problems += _details(error)
        else:
            problems += [_problem((), text, given) for text in (() if problems else section.problems())]
        if problems:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        section.model_fields_set.intersection_update(given)
        return section

    @classmethod
    def _unowned(cls, key: str, value: Any, known: list[str], names: Mapping[str, str]) -> InitErrorDetails:
        having = owners(key, within(cls.slots))
        if not having:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            return _problem((key,), hint, value, kind="unknown_key")
        slot = having[0].slot
        theirs = ", ".join(kind.name for kind in having if kind.slot == slot)
        if slot in names:
            text = f"{slot}={names[slot]} has no such setting (only {theirs}); leave it out"
        else:
            whole = " and ".join(f"{top}={names[top]}" for top in cls.slots)
            text = f"a setting of {slot} ({theirs}), and {whole} has no {slot}; leave it out"
        return _problem((key,), text, value)


def _plugin_problems(plugins: Any) -> Iterator[InitErrorDetails]:
    for module in plugins if isinstance(plugins, list | tuple) else ():
        try:
            load_plugin(str(module))
        except BadInput as error:
            yield _problem(("plugins",), str(error), module)


def _problem(
    location: tuple[str, ...], message: str, value: Any, kind: LiteralString = "setting"
) -> InitErrorDetails:
    return InitErrorDetails(
        type=PydanticCustomError(kind, "{message}", {"message": message}), loc=location, input=value
    )


def _details(error: ValidationError) -> Iterator[InitErrorDetails]:
    for problem in error.errors(include_url=False):
        detail = InitErrorDetails(type=problem["type"], loc=problem["loc"], input=problem["input"])
        if "ctx" in problem:
            detail["ctx"] = problem["ctx"]
        yield detail
