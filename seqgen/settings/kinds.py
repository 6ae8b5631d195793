"""Kinds: what may stand in a slot of a model or of a training, from inside or outside the package.

A slot's kind is chosen by name in a recipe and owns its settings, which stand in the recipe beside the choice:

    model: {attention: gaussian, read_size: 5, write_size: 12}

Outside the package a class registers itself, and `plugins` of the recipe's section names its module, or the
distribution names it as an entry point of the group `seqgen.kinds`:

    @register("canvas", "fading")
    class FadingCanvas(Canvas):
        class Settings(KindSettings):
            fade: float = Field(default=0.9, gt=0, le=1, description="what is left of the canvas after a step")

The package's own are listed in `seqgen.settings.catalogue`, because a recipe is checked where torch is not loaded;
their classes are imported when a model is built.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points, packages_distributions, version
from typing import Any, ClassVar, TypeVar

from seqgen.core.errors import BadInput, one_line
from seqgen.core.strict import Strict

SLOTS = (
    "step",  # one member's equations, which say what other slots it has
    "attention",  # reads x and x', writes on the canvas
    "canvas",  # f_c (eq. 6)
    "transition",  # f_h (eq. 5)
    "latent",  # what z_t is: its noise, how it is drawn, its divergence from the prior
    "prior",  # p(z_t | .) (eq. 3)
    "context",  # which image v_t is read of, given several x' (eq. 4)
    "inference",  # q(z_t | z_{<t}, x) (eqs. 11-12)
    "observation",  # p(x | f_o(c_T)) (eq. 7)
    "objective",  # what a training minimises
)
ENTRY_POINTS = "seqgen.kinds"


class KindSettings(Strict):
    """The settings of one kind; the base has none. They share one namespace with those of the section's other kinds.

    A setting with the name of a slot is one: the kind's own choice of another kind, which owns settings in turn.
    """

    discrete: ClassVar[bool] = False  # whether some of what it draws lets no gradient through

    def problems(self, section: Any, size: int | None) -> Iterator[str]:
        """What is wrong with these beside the other settings of `section`, for images of `size` if that is known."""
        return iter(())


@dataclass(frozen=True)
class Kind:
    """A registered kind: its settings and its class, or where that is ("module:Class")."""

    slot: str
    name: str
    settings: type[KindSettings]
    implementation: type | str

    @property
    def module(self) -> str:
        """The module that its class is in."""
        if isinstance(self.implementation, str):
            return self.implementation.partition(":")[0]
        return self.implementation.__module__

    @property
    def own_slots(self) -> dict[str, str]:
        """The slots that it has itself, and the kind that stands in each by default."""
        fields = self.settings.model_fields
        return {name: field.default for name, field in fields.items() if name in SLOTS}

    @property
    def from_outside(self) -> bool:
        """Whether it is none of the package's own."""
        return self.module.partition(".")[0] != "seqgen"

    def load(self) -> type:
        """Its class."""
        if isinstance(self.implementation, type):
            return self.implementation
        module, _, name = self.implementation.partition(":")
        return getattr(importlib.import_module(module), name)


_KINDS: dict[tuple[str, str], Kind] = {}
_Class = TypeVar("_Class", bound=type)


def register(
    slot: str,
    name: str,
    implementation: str | None = None,
    settings: type[KindSettings] | None = None,
) -> Callable[[_Class], _Class]:
    """Register a kind: as a decorator of its class, whose `Settings`, if it has one, are its settings.

    With `implementation` ("module:Class") and `settings` the class need not be there yet. Raises BadInput for an
    unknown slot and for a name that another module has taken.
    """
    if slot not in SLOTS:
        raise BadInput(f"register({slot!r}, {name!r}): no such slot; there are {', '.join(SLOTS)}")

    def add(implementation: type | str) -> None:
        own = settings if settings is not None else getattr(implementation, "Settings", KindSettings)
        kind = Kind(slot, name, own, implementation)
        before = _KINDS.get((slot, name))
        if before is not None and before.module != kind.module:
            raise BadInput(
                f"{kind.module}: {slot}={name} is registered by {before.module} already; choose another name"
            )
        _KINDS[slot, name] = kind

    def decorate(implementation: _Class) -> _Class:
        add(implementation)
        return implementation

    if implementation is not None:
        add(implementation)
    return decorate


def find(slot: str, name: Any) -> Kind:
    """The kind of that name. Raises BadInput that names the nearest known one, or all."""
    if (slot, name) not in _KINDS:
        _load_entry_points()
    kind = _KINDS.get((slot, name))
    if kind is None:
        known = names(slot)
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise BadInput(f"no such kind ({hint}); a kind of your own needs its module in plugins")
    return kind


def names(slot: str) -> list[str]:
    """The names of the kinds of a slot that are registered."""
    return sorted(name for of, name in _KINDS if of == slot)


def chosen(slots: Mapping[str, str], given: Mapping[str, Any]) -> list[Kind]:
    """The kinds that `given` chooses for `slots` (their defaults by name), those of a kind's own slots after it.

    Raises BadInput for one that is not known.
    """
    names, kinds = dict(slots), []
    for slot in (waiting := list(slots)):  # which grows
        kinds.append(find(slot, given.get(slot, names[slot])))
        names |= kinds[-1].own_slots
        waiting += kinds[-1].own_slots
    return kinds


def within(slots: Iterable[str]) -> tuple[str, ...]:
    """`slots` and those that any kind of theirs has."""
    found = list(slots)
    for slot in found:  # which grows
        for kind in [kind for kind in _KINDS.values() if kind.slot == slot]:
            found += [more for more in kind.own_slots if more not in found]
    return tuple(found)


def owners(setting: str, slots: tuple[str, ...]) -> list[Kind]:
    """The kinds of `slots` that have a setting of that name."""
    return [kind for kind in _KINDS.values() if kind.slot in slots and setting in kind.settings.model_fields]


def load_plugin(module: str) -> None:
    """Import a module that registers kinds. Raises BadInput if it cannot be imported."""
    try:
        importlib.import_module(module)
    except BadInput:
        raise
    except Exception as error:  # whatever a module of somebody else raises
        raise BadInput(
            f"cannot be imported ({one_line(error)}); install it, or put its folder on PYTHONPATH"
        ) from error


def plugin_version(module: str) -> str | None:
    """The version of the distribution that a plugin's module came with; None for plain files."""
    distributions = packages_distributions().get(module.partition(".")[0], [])
    return version(distributions[0]) if distributions else None


_entry_points_loaded = False


def _load_entry_points() -> None:
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    for point in entry_points(group=ENTRY_POINTS):
        load_plugin(point.value.partition(":")[0])
