"""The plane recognisability x originality of Boutin et al. 2022 as SVG, drawn with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PEOPLE = "people"

# Recognised samples on Omniglot's weak split, in %: Boutin et al. 2023, "Diffusion Models as Artists", figure 2.
PUBLISHED = (
    (PEOPLE, 97.5),
    ("CFG diffusion", 97.0),
    ("FSDM", 95.0),
    ("DDPM", 90.0),
    ("VAE-NS", 85.0),
    ("VAE-STN", 75.0),
)
_MODEL, _PEOPLE, _LINE, _TEXT = "#d55e00", "#0072b2", "#b7bec9", "#5b6270"
_LETTERS = 0.045  # the height of a label as a share of the axis


class Judged(NamedTuple):
    """Who drew, recognised in %, originality in the embedding's unit, with standard errors by character.

    typical: the exemplars were typical drawings, as in published results, not random ones.
    """

    name: str
    recognised: float
    originality: float
    recognised_se: float
    originality_se: float
    typical: bool = False


def plane(points: Sequence[Judged]) -> bytes:
    """`points` with bars of two standard errors, a model's joined by a line in their order, as SVG.

    Published results are levels: their originality was measured in another embedding.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axis = figure.subplots()
    lowest = min(
        [level for _, level in PUBLISHED] + [one.recognised - 2 * one.recognised_se for one in points]
    )
    _levels(axis, max(0.0, lowest - 4), 101.0)
    for typical in (False, True):
        of_kind = [one for one in points if one.typical == typical]
        models = [one for one in of_kind if one.name != PEOPLE]
        originality, recognised = (
            [getattr(one, key) for one in models] for key in ("originality", "recognised")
        )
        axis.plot(originality, recognised, color=_MODEL, linewidth=1, linestyle=":" if typical else "-")
        for one in of_kind:
            _point(axis, one)
    for face, text in (
        ("black", "exemplar: a random drawing"),
        ("white", "exemplar: a typical drawing, as published"),
    ):
        axis.plot([], [], "o", color="black", markerfacecolor=face, markersize=5, label=text)
    axis.legend(frameon=False, fontsize=8, loc="lower left")
    left, right = axis.get_xlim()
    axis.set_xlim(min(0.0, left), right + 0.15 * (right - min(0.0, left)))  # room for the names
    axis.set_xlabel("originality: standard deviation within a character, in the embedding")
    axis.set_ylabel("recognised, %")
    axis.set_title(
        "Samples given one drawing of a new character; dashed: published levels", fontsize=10, loc="left"
    )
    axis.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    # A fixed salt and no date: the same numbers give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "seqgen"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _levels(axis: Axes, bottom: float, top: float) -> None:
    """The published levels across the axis from `bottom` to `top`, named on its right."""
    axis.set_ylim(bottom, top)
    heights = apart([level for _, level in PUBLISHED], _LETTERS * (top - bottom))
    for (name, level), height in zip(PUBLISHED, heights, strict=True):
        axis.axhline(level, color=_LINE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        axis.annotate(
            f"{name} {level:g}",
            xy=(1, level),
            xytext=(1.05, height),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            annotation_clip=False,
            va="center",
            fontsize=8,
            color=_TEXT,
            arrowprops={"arrowstyle": "-", "color": _LINE, "linewidth": 0.9},
        )


def _point(axis: Axes, one: Judged) -> None:
    colour = _PEOPLE if one.name == PEOPLE else _MODEL
    axis.errorbar(
        one.originality,
        one.recognised,
        xerr=2 * one.originality_se,
        yerr=2 * one.recognised_se,
        fmt="o",
        markersize=5,
        color=colour,
        markerfacecolor="white" if one.typical else colour,
    )
    at = (one.originality, one.recognised)
    axis.annotate(one.name, at, xytext=(8, 5), textcoords="offset points", fontsize=9, color=colour)


def apart(levels: Sequence[float], gap: float) -> list[float]:
    """Heights for labels of `levels`, which fall: each as near to its level as `gap` below the one before allows."""
    heights: list[float] = []
    for level in levels:
        heights.append(min(level, heights[-1] - gap) if heights else level)
    return heights
